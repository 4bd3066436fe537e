"""`msft profile`: run a search, and tell where its wall time goes, in lines that sum to it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from pydantic import BaseModel

from tasks.errors import ProfileError
from tasks.record.status import list_searches
from tasks.record.view import read_view
from tasks.report.messages import tell_table
from tasks.report.tables import Table, names, numbers
from tasks.runtime.processes import PYTHON, child_environment, end_groups, spawn, wait_until
from tasks.runtime.spans import FILE, Span, read_spans

# What a worker does in a request outside of the spans within it; a wait for a request shows what its worker does.
_REQUESTS = {
    "tasks.workers.train": "training steps",
    "tasks.workers.score": "scoring",
    "tasks.workers.build_base": "model loading",
}
_ALSO = {"process start": "process starts", "MLflow calls": "MLflow"}
# Spans within others that are counted, or are a part of what surrounds them.
_COUNTED = ("tokenizer call", "tokenized rows")
_REST = "Prefect and the flow"
LINES = (
    "process starts",
    "imports",
    "preparation",
    "model loading",
    "training steps",
    "checkpoint writing",
    "scoring",
    "MLflow",
    _REST,
    "waits",
    "exits",
)


class Profile(BaseModel):
    """Seconds by line, which sum to `wall_s`, and what was counted."""

    wall_s: float
    seconds: dict[str, float]
    counts: dict[str, float]


def profile_search(config: str, overrides: Sequence[str]) -> Profile:
    """Run a new search in a temporary folder, or in the `output_root` of the overrides, and return its profile.

    Raises:
        ProfileError: the search fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        roots = [value.partition("=")[2] for value in overrides if value.startswith("output_root=")]
        root, spans, log = (roots or [f"{folder}/searches"])[-1], Path(folder, "spans"), Path(folder, "log")
        settings = [part for value in (*overrides, f"output_root={root}") for part in ("--set", value)]
        command = [*PYTHON, "-m", "flows.cli", "search", config, *settings]
        began = time.monotonic()
        process = spawn(command, log, child_environment() | {FILE: str(spans)})
        try:
            wait_until(lambda: process.poll() is not None)
        finally:
            end_groups([process])
        ended = time.monotonic()
        if process.returncode:
            raise ProfileError(config, got="\n".join(log.read_text(errors="replace").splitlines()[-10:]))
        found = read_spans(spans)
        seconds = seconds_of(found, process.pid, began, ended)
        newest = list_searches(root)[-1].directory
        return Profile(wall_s=ended - began, seconds=seconds, counts=counts_of(found, newest))


def seconds_of(spans: Sequence[Span], flow: int, began: float, ended: float) -> dict[str, float]:
    """Return the seconds of each line: of every moment of the flow's process, what it or its worker then did."""
    timed = [one for one in spans if one.name not in _COUNTED]
    own = [one for one in timed if one.pid == flow]
    workers = {
        module: [one for one in timed if one.pid in {s.pid for s in timed if s.name == module} - {flow}]
        for module in _REQUESTS
    }
    marks = {began, ended, *(moment for one in timed for moment in (one.began, one.ended) if began < moment < ended)}
    seconds = dict.fromkeys(LINES, 0.0)
    for start, end in pairwise(sorted(marks)):
        line = _line_at(start, own, workers)
        seconds[line if line in LINES else _REST] += end - start
    return seconds


def _line_at(moment: float, own: Sequence[Span], workers: dict[str, list[Span]]) -> str:
    name = _innermost(moment, own)
    if name in _REQUESTS:
        served = workers[name]
        doing = _innermost(moment, served)
        if doing is None:
            return "waits" if any(one.ended <= moment for one in served) else "process starts"
        return _REQUESTS.get(doing, doing)
    if name == "Prefect" or name is None:
        # The command itself imports before its first span, and ends after its last.
        before, after = own and moment < own[0].began, own and moment >= max(one.ended for one in own)
        return "process starts" if before else "exits" if after else _REST
    return _ALSO.get(name, name)


def _innermost(moment: float, spans: Sequence[Span]) -> str | None:
    """Return the name of the span that began last of those around a moment."""
    around = [one.name for one in spans if one.began <= moment < one.ended]
    return around[-1] if around else None


def counts_of(spans: Sequence[Span], directory: str) -> dict[str, float]:
    """Return what a search's processes counted, and what its journal holds."""
    rounds = read_view(directory).history.rounds
    checkpoints = [one for decided in rounds for one in decided.checkpoints]
    rows: float = sum(one.figures["rows"] for one in spans if one.name == "tokenized rows")
    scoring: dict[str, float] = {}
    for name, value in (figure for one in spans if one.name == "scoring" for figure in one.figures.items()):
        scoring[f"scoring {name}"] = scoring.get(f"scoring {name}", 0.0) + value
    return {
        "process starts": sum(one.figures.get("processes", 0) for one in spans),
        "rows tokenized": rows,
        "tokenizer calls a row": _number_of("tokenizer call", spans) / max(rows, 1),
        "checkpoints": len(checkpoints),
        "checkpoint bytes": sum(one.num_bytes for one in checkpoints),
        "MLflow requests": _number_of("MLflow", spans),
        "optimizer steps": sum(d.mixture.num_steps for d in rounds if d.mixture is not None),
        "training tokens": sum(interval.num_tokens for decided in rounds for interval in decided.intervals),
        **scoring,
    }


def _number_of(name: str, spans: Sequence[Span]) -> int:
    return sum(one.name == name for one in spans)


def show_profile(profile: Profile) -> None:
    """Tell the lines and the counts."""
    shares = [(line, f"{seconds:.1f}", f"{seconds / profile.wall_s:.0%}") for line, seconds in profile.seconds.items()]
    total = ("wall", f"{profile.wall_s:.1f}", "100%")
    tell_table(Table((*names("where the time goes"), *numbers("seconds", "share")), [*shares, total]))
    counts = [(name, f"{value:,.3g}" if value < 1 else f"{value:,.0f}") for name, value in profile.counts.items()]
    tell_table(Table((*names("counted"), *numbers("number")), counts))
