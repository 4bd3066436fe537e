"""Terminal output of `msft init` and `msft status`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from tasks.commands.init import Draft, DraftPart
from tasks.record.status import SearchStatus, command_for
from tasks.report.findings import headroom_text
from tasks.report.messages import tell, tell_table
from tasks.report.tables import Table, names, numbers, texts

logger = logging.getLogger(__name__)


def show_draft(draft: Draft) -> None:
    """Tell the sub-datasets of a new configuration, the guesses to check, and the next command."""
    tell(f"wrote {draft.path}: {len(draft.parts)} sub-datasets")
    rows = []
    for part in draft.parts:
        splits = [_split_text(part, split) for split in ("validation", "test")]
        rows.append((part.data.name, f"{part.schema.num_rows:,}", *splits, part.schema.metric, part.schema.columns))
    columns = (*names("sub-dataset"), *numbers("rows"), *names("validation", "test", "scored by"), *texts("read as"))
    tell_table(Table(columns, rows))
    for remark in draft.remarks:
        tell(("check", "yellow"), f" {remark}")
    tell(f"next: msft plan {draft.path}")


def draft_values(draft: Draft) -> dict[str, Any]:
    """Return a draft as the JSON value of `msft init --json`."""
    return {
        "config": draft.path,
        "sub_datasets": [
            {
                "name": part.data.name,
                "files": {split: str(file) for split, file in part.data.files.items()},
                "rows": part.schema.num_rows,
                "splits": dict(part.splits),
                "form": part.schema.columns,
                "template": dict(part.schema.template) if part.schema.template is not None else None,
                "metric": part.schema.metric,
                "remark": part.schema.remark,
            }
            for part in draft.parts
        ],
    }


def _split_text(part: DraftPart, split: str) -> str:
    value = part.splits[split]
    return f"{value:,} rows" if isinstance(value, int) else f"{value['carve']:,} carved"


def show_statuses(statuses: Sequence[SearchStatus], output_root: str) -> None:
    """Tell one line for each search, and the commands that resume the interrupted ones."""
    if not statuses:
        tell(f"no search in {output_root}; start one with: msft search CONFIG")
        return
    rows = []
    for one in statuses:
        excluded, last = ", ".join(one.excluded) or "none", one.last_event_at or "none"
        begun = (one.search, one.condition, _round_text(one), str(len(one.active)), excluded)
        rows.append((*begun, _champion_text(one), _budget_text(one), last))
    headings = ("status", "round", "active", "excluded", "champion so far", "epochs", "last event")
    tell_table(Table((*names("search"), *texts(*headings)), rows))
    for one in statuses:
        _show_next(one)


def show_search_status(one: SearchStatus) -> None:
    """Tell the status of one search, a line for each value."""
    lines = {
        "search": one.search,
        "directory": one.directory,
        "status": one.condition + (f", by {one.owner}" if one.owner else ""),
        "round": _round_text(one),
        "active": ", ".join(one.active) or "none",
        "excluded": ", ".join(one.excluded) or "none",
        "champion so far": _champion_text(one),
        "epochs spent": _budget_text(one),
        "last event": f"{one.last_event} at {one.last_event_at}" if one.last_event else "none",
    }
    if found := headroom_text(one.headroom):
        lines["headroom"] = found
    ended = {"ended": one.stop_reason} if one.stop_reason else {}
    tell_table(Table((*names(""), *texts("")), list({**lines, **ended}.items())))
    _show_next(one)


def _show_next(one: SearchStatus) -> None:
    if one.condition == "unreadable":
        logger.warning(one.problem)
    if one.condition == "resumable":
        tell(f"resume with: {command_for(one)}")


def _round_text(one: SearchStatus) -> str:
    if one.condition == "finished" or one.progress is None:
        return str(one.round)
    return f"{one.round} (step {one.progress[0]} of {one.progress[1]})"


def _champion_text(one: SearchStatus) -> str:
    return f"{one.champion}, {one.champion_score:.4f}" if one.champion is not None else "none"


def _budget_text(one: SearchStatus) -> str:
    return f"{one.spent_epochs:.2f} of {one.max_epochs:g}" if one.max_epochs is not None else "none"
