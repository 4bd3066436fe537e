"""Status of the searches in a folder, read from their directories."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from tasks.algorithm.costs import LedgerLine
from tasks.algorithm.state import SearchState
from tasks.algorithm.strategy import Decision
from tasks.config.identity import differences, identity_in, identity_of, search_id_of
from tasks.config.loading import load_config
from tasks.config.schema import SearchConfig
from tasks.contracts import Value
from tasks.errors import ConfigError, JournalError, OtherSearchError, SearchNotFoundError
from tasks.record.events import start_of
from tasks.record.headroom import Headroom
from tasks.record.journal import History, read_events, read_history
from tasks.record.ownership import owner_of
from tasks.record.paths import CONFIG, JOURNAL, ROUNDS, round_directory
from tasks.record.rollout import read_progress
from tasks.record.view import FULL_EPOCHS, read_view, view_of

_COSTS = ("num_tokens", "num_examples", "flops", "seconds", "num_bytes")
Condition = Literal["running", "resumable", "finished", "not begun", "unreadable"]


class SearchStatus(Value):
    """Status of one search.

    Attributes:
        search: name of its directory, `NAME-ID`.
        owner: the process that runs it, if any.
        progress: current step and number of steps of the running roll-out; None before its first step.
        champion_score: mean validation accuracy, or loss if the search selects by loss.
        spent_epochs: full-mixture epochs trained.
        headroom: what any stopping by sub-dataset could gain at most; None in a list, and where it is not known.
        problem: why its journal cannot be read; empty if it can.
    """

    search: str
    directory: str
    condition: Condition
    owner: str | None
    round: int
    progress: tuple[int, int] | None
    active: tuple[str, ...]
    excluded: tuple[str, ...]
    champion: str | None
    champion_score: float | None
    spent_epochs: float
    max_epochs: float | None
    stop_reason: str
    last_event: str | None
    last_event_at: str | None
    headroom: Headroom | None = None
    problem: str = ""


def list_searches(output_root: str) -> list[SearchStatus]:
    """Return the status of every search under `output_root`, by the time of its last event."""
    found = [status_of(str(path)) for path in _directories(output_root)]
    return sorted(found, key=lambda status: (status.last_event_at or "", status.search))


def find_search(output_root: str, search: str) -> str:
    """Return the directory of a search, given as a directory, or as a name, an id or a prefix in `output_root`.

    Raises:
        SearchNotFoundError: none matches, or several do.
    """
    if _is_search(Path(search)):
        return str(Path(search))
    names = [path.name for path in _directories(output_root)]
    near = [name for name in names if name == search]
    near = near or [name for name in names if name.startswith(search) or name.endswith(f"-{search}")]
    if len(near) != 1:
        found = "several searches begin so; there are" if near else "no such search; there is"
        got = f"{found} {', '.join(near or names) or 'none'}"
        raise SearchNotFoundError(f"search {search!r} in {output_root}", got=got)
    return str(Path(output_root, near[0]))


def status_of(directory: str, *, with_headroom: bool = False) -> SearchStatus:
    """Return the status of the search in a directory."""
    owner = owner_of(directory)
    try:
        history = read_history(directory) if read_events(directory) else None
    except JournalError as error:
        return _status(directory, "unreadable", owner, None, problem=str(error))
    resumable: Condition = "not begun" if history is None else "finished" if history.crowned else "resumable"
    status = _status(directory, "running" if owner else resumable, owner, history)
    if history is None or not with_headroom:
        return status
    return status.model_copy(update={"headroom": view_of(history, directory).headroom})


def _status(
    directory: str, condition: Condition, owner: str | None, history: History | None, problem: str = ""
) -> SearchStatus:
    view = view_of(history, directory) if history is not None else None
    state = view.state if view is not None else SearchState(active=())
    line = read_progress(round_directory(directory, state.round)) if condition != "finished" else None
    return SearchStatus(
        search=Path(directory).resolve().name,
        directory=directory,
        condition=condition,
        owner=owner,
        round=state.round,
        progress=(line["step"], line["num_steps"]) if line is not None else None,
        active=state.active,
        excluded=tuple(exclusion.sub_dataset for exclusion in state.excluded),
        champion=str(state.champion.checkpoint) if state.champion is not None else None,
        champion_score=view.score(state.champion.score).shown if view and state.champion else None,
        spent_epochs=view.spent if view is not None and view.unit == FULL_EPOCHS else 0.0,
        max_epochs=view.started.max_epochs if view is not None else None,
        stop_reason=state.stop_reason,
        last_event=history.events[-1].kind if history is not None else None,
        last_event_at=history.events[-1].at if history is not None else None,
        problem=problem,
    )


def resumed_config(directory: str, overrides: Sequence[str]) -> SearchConfig:
    """Return the configuration to resume a search with: its own, at its present place.

    Args:
        overrides: settings that do not change results (`tracking.uri=…`), as for `msft search`.
    Raises:
        ConfigError: the search has no record, or the password of `tracking.uri` is missing (it is never stored).
        OtherSearchError: the overrides make it another search.
    """
    path = Path(directory, CONFIG)
    events = read_events(directory)
    if not events or not path.is_file():
        raise ConfigError(directory, ["the search has not begun and has no record; start it with: msft search CONFIG"])
    config = load_config(str(path), overrides)
    config = config.model_copy(update={"output_root": str(Path(directory).resolve().parent)})
    if ":***@" in (uri := config.tracking.uri or ""):
        told = f"tracking.uri: {uri} is stored without its password; give it: --set tracking.uri=…"
        raise ConfigError(str(path), [told])
    started = start_of(events)
    if search_id_of(config) != started.search_id:
        raise OtherSearchError(directory, differences(identity_in(started.config), identity_of(config)))
    return config


def _directories(output_root: str) -> list[Path]:
    root = Path(output_root)
    return sorted(path for path in root.iterdir() if _is_search(path)) if root.is_dir() else []


def _is_search(path: Path) -> bool:
    return (path / JOURNAL).is_file() or (path / ROUNDS).is_dir()


def command_for(status: SearchStatus) -> str:
    """Return the command that resumes a search."""
    return f"msft resume {os.path.relpath(status.directory)}"


def read_summary(directory: str) -> dict[str, Any]:
    """Return the decisions, champion and cost of a finished search for `--json`."""
    view = read_view(directory)
    assert view.crowned is not None
    return {
        "search": Path(directory).resolve().name,
        "directory": directory,
        "stop_reason": view.state.stop_reason,
        "decisions": [
            {"round": told.index} | _fields(told.decided.decision, ("exclude", "include", "roll_back_to", "reason"))
            for told in view.rounds
        ],
        "champion": view.crowned.model_dump(mode="json"),
        **({"soup": view.history.soup.model_dump(mode="json")} if view.history.soup is not None else {}),
        "ledger": {kind: _fields(line, _COSTS) for kind, line in view.totals.items()},
        **({"headroom": asdict(view.headroom)} if view.headroom is not None else {}),
        "plan": [row.model_dump() for row in view.plan] or None,
    }


def _fields(value: Decision | LedgerLine, names: Sequence[str]) -> dict[str, Any]:
    held = asdict(value)
    return {name: held[name] for name in names}
