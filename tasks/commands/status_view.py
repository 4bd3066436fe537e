"""What a person sees of searches that run, wait or ended, and of what would hinder one."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from tasks.commands.doctor import Check
from tasks.record.status import SearchStatus, command_for
from tasks.report.console import console, print_table

logger = logging.getLogger(__name__)


def show_statuses(statuses: Sequence[SearchStatus], output_root: str) -> None:
    """Print one line for each search, and the commands that go on with what does not run."""
    if not statuses:
        console.print(f"no search in {escape(output_root)}; start one with: msft search CONFIG")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("search", min_width=max(len(one.search) for one in statuses))  # whole, to be copied
    for heading in ("is", "round", "active", "excluded", "champion so far", "epochs", "last event"):
        table.add_column(heading)
    for one in statuses:
        table.add_row(
            escape(one.search),
            one.condition,
            _round_text(one),
            str(len(one.active)),
            ", ".join(one.excluded) or "none",
            _champion_text(one),
            _budget_text(one),
            one.last_event_at or "none",
        )
    print_table(table)
    for one in statuses:
        _show_next(one)


def show_search_status(one: SearchStatus) -> None:
    """Print where one search stands, line by line."""
    table = Table(box=None, pad_edge=False, show_header=False)
    lines = {
        "search": one.search,
        "directory": one.directory,
        "is": one.condition + (f", by {one.owner}" if one.owner else ""),
        "round": _round_text(one),
        "active": ", ".join(one.active) or "none",
        "excluded": ", ".join(one.excluded) or "none",
        "champion so far": _champion_text(one),
        "epochs spent": _budget_text(one),
        "last event": f"{one.last_event} at {one.last_event_at}" if one.last_event else "none",
    }
    for label, text in {**lines, **({"ended": one.stop_reason} if one.stop_reason else {})}.items():
        table.add_row(label, escape(text))
    print_table(table)
    _show_next(one)


def _show_next(one: SearchStatus) -> None:
    if one.condition == "unreadable":
        logger.warning(one.problem)
    if one.condition == "resumable":
        console.print(f"go on with: {escape(command_for(one))}")


def _round_text(one: SearchStatus) -> str:
    if one.condition == "finished" or one.progress is None:
        return str(one.round)
    return f"{one.round} (step {one.progress[0]} of {one.progress[1]})"


def _champion_text(one: SearchStatus) -> str:
    return f"{one.champion}, {one.champion_score:.4f}" if one.champion is not None else "none"


def _budget_text(one: SearchStatus) -> str:
    return f"{one.spent_epochs:.2f} of {one.max_epochs:g}" if one.max_epochs is not None else "none"


def show_checks(checks: Sequence[Check]) -> None:
    """Print what was looked at, and beneath what is amiss the fix."""
    styles = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    for check in checks:
        mark = f"[{styles[check.verdict]}]{check.verdict:4}[/{styles[check.verdict]}]"
        console.print(f"{mark}  {check.name:9} {escape(check.finding)}")
        if check.fix:
            console.print(f"                do: {escape(check.fix)}")
