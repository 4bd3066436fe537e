"""The end of a search as one value, for machines."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.algorithm.costs import total_by_kind
from tasks.config.loading import search_id_of
from tasks.config.schema import SearchConfig
from tasks.planning.plan import compare_with_plan, read_plan
from tasks.record.events import RoundDecided, champion_of, rounds_of
from tasks.record.journal import read_events


def directory_of(config: SearchConfig) -> str:
    """Return where the search of a configuration keeps its files."""
    return str(Path(config.output_root, f"{config.name}-{search_id_of(config)}"))


def summary_of(directory: str) -> dict[str, Any]:
    """Return what a finished search decided, found and cost."""
    events = read_events(directory)
    rounds, crowned = rounds_of(events), champion_of(events)
    assert crowned is not None
    totals = total_by_kind(line for decided in rounds for line in decided.ledger)
    plan = read_plan(directory)
    return {
        "search": Path(directory).resolve().name,
        "directory": directory,
        "stop_reason": rounds[-1].stop_reason,
        "decisions": [{"round": decided.round, **_decision(decided)} for decided in rounds],
        "champion": crowned.champion.model_dump(mode="json"),
        "ledger": {kind: _costs(asdict(line)) for kind, line in totals.items()},
        "plan": [row.model_dump() for row in compare_with_plan(plan, rounds)] if plan is not None else None,
    }


def _decision(decided: RoundDecided) -> dict[str, Any]:
    decision = decided.model_dump(mode="json", include={"decision"})["decision"]
    return {key: decision[key] for key in ("exclude", "include", "roll_back_to", "reason")}


def _costs(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in ("round", "kind")}
