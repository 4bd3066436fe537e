"""The journal of a search: one JSON event per line, appended and synced, never rewritten."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from functools import reduce
from pathlib import Path

from pydantic import model_serializer

from tasks.algorithm.costs import LedgerLine
from tasks.algorithm.state import CheckpointKey, SearchState
from tasks.contracts import ChampionResult, Value
from tasks.errors import JournalError
from tasks.record.events import (
    ChampionCrowned,
    Event,
    EventError,
    OneEvent,
    RoundDecided,
    RowsRelabelled,
    SearchStarted,
    Soup,
    champion_of,
    of_kind,
    parse_event,
    rounds_of,
    start_of,
)
from tasks.record.paths import JOURNAL
from tasks.runtime.files import is_out_of_space, no_room, sync


class History(Value):
    """The events of one search and the state after them.

    Only `RoundDecided` changes the state, so a search interrupted inside a round resumes at that round's start.
    """

    events: tuple[Event, ...]
    state: SearchState

    @classmethod
    def of(cls, events: Sequence[Event]) -> History:
        """Return the history of these events.

        Raises:
            ValueError: the first does not start a search, or a round is missing or repeated.
        """
        if not events or not isinstance(events[0], SearchStarted):
            raise ValueError("no event says that a search has started")
        started = events[0]
        state = SearchState.opened(started.sub_datasets, started.opening)
        return reduce(cls.after, events[1:], cls(events=(started,), state=state))

    def after(self, event: Event) -> History:
        """Return the history with one more event.

        Raises:
            ValueError: a round is missing or repeated.
        """
        state = self.state
        if isinstance(event, RoundDecided):
            if event.round != state.round:
                raise ValueError(f"decision of round {event.round} out of order")
            state = state.after(event)
        return self.model_copy(update={"events": (*self.events, event), "state": state})

    @property
    def started(self) -> SearchStarted:
        """Return the first event."""
        return start_of(self.events)

    @property
    def rounds(self) -> list[RoundDecided]:
        """Return the decided rounds in order."""
        return rounds_of(self.events)

    @property
    def relabelled(self) -> dict[str, RowsRelabelled]:
        """Return the rehearsed rows of each sub-dataset that the state wants relabelled, as far as they are made."""
        made = {(event.sub_dataset, event.checkpoint): event for event in of_kind(self.events, RowsRelabelled)}
        wanted = self.state.relabelled.items()
        return {name: made[name, key] for name, key in wanted if (name, key) in made}

    @property
    def unlabelled(self) -> dict[str, CheckpointKey]:
        """Return the others: the checkpoint of each sub-dataset whose answers are still to be found."""
        return {name: key for name, key in self.state.relabelled.items() if name not in self.relabelled}

    @property
    def crowned(self) -> ChampionCrowned | None:
        """Return the end of the search; None before it."""
        return champion_of(self.events)

    @property
    def soup(self) -> Soup | None:
        """Return how the champion was averaged; None before the end, and without `search.champion: soup`."""
        return self.crowned.soup if self.crowned is not None else None

    @property
    def ledger(self) -> list[LedgerLine]:
        """Return the work of all rounds, and the scoring of averages after them."""
        after = [] if self.soup is None else [LedgerLine.sum_of(self.state.round, "evaluation", [self.soup.cost], 0)]
        return [line for decided in self.rounds for line in decided.ledger] + after

    @property
    def champion(self) -> ChampionResult:
        """Return the champion of a finished search."""
        assert self.crowned is not None
        return self.crowned.champion

    @model_serializer
    def _shown(self) -> dict[str, int]:
        """Return a short form for Prefect's pages, which limit a flow's parameters to 512 KB."""
        return {"num_events": len(self.events), "round": self.state.round}


def read_events(search_directory: str) -> list[Event]:
    """Return the events in order, without a last line torn by a crash.

    Raises:
        JournalError: another line is no event, or is of a newer version.
    """
    path = Path(search_directory, JOURNAL)
    if not path.exists():
        return []
    # Bytes, because a torn line may end inside a character; a line without a line end is torn.
    lines = path.read_bytes().split(b"\n")[:-1]
    events = []
    for number, line in enumerate(lines, start=1):
        try:
            events.append(parse_event(line, Path(search_directory)))
        except EventError as error:
            raise JournalError(str(path), number, str(error), fix=error.fix) from error
    return events


def read_history(search_directory: str) -> History:
    """Return the events of a search and its state.

    Raises:
        JournalError: the journal is empty, or its events are not the history of one search.
    """
    return history_of(search_directory, read_events(search_directory))


def history_of(search_directory: str, events: Sequence[Event]) -> History:
    """Return the history of events read from `search_directory`; raises as `read_history`."""
    try:
        return History.of(events)
    except ValueError as error:
        cause = f"not the history of one search: {error}"
        raise JournalError(str(Path(search_directory, JOURNAL)), max(1, len(events)), cause) from error


def append_event(search_directory: str, event: OneEvent) -> OneEvent:
    """Append one event and return it with its time; it survives any crash from then on.

    Raises:
        NoDiskSpaceError: the event does not fit; none of it is left behind.
    """
    path = Path(search_directory, JOURNAL)
    recorded = event.model_copy(update={"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
    line = json.dumps({"kind": event.kind, **recorded.model_dump(mode="json")}, ensure_ascii=False)
    content = f"{line}\n".encode()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        end = _cut_torn_line(descriptor)
        try:
            _write_all(descriptor, content)
            if end == 0:  # the file may be new
                sync(path.parent)
        except OSError as error:
            os.ftruncate(descriptor, end)  # a failed event must not be found later
            if is_out_of_space(error):
                raise no_room(path, "an event", len(content)) from error
            raise
    finally:
        os.close(descriptor)
    return recorded


def _write_all(descriptor: int, content: bytes) -> None:
    """Append and sync; a single `os.write` may write only a part on a full disk."""
    os.lseek(descriptor, 0, os.SEEK_END)
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]
    os.fsync(descriptor)


def _cut_torn_line(descriptor: int) -> int:
    """Cut off a torn last line, so that the next event does not join it; return the file's new size."""
    size = os.lseek(descriptor, 0, os.SEEK_END)
    end = os.pread(descriptor, size, 0).rfind(b"\n") + 1
    os.ftruncate(descriptor, end)
    return end
