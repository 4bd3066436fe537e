"""The journal of a search: one JSON event a line, appended and synced, never rewritten."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from tasks.algorithm.state import SearchState
from tasks.errors import JournalError
from tasks.record.events import Event, EventError, History, OneEvent, parse_event
from tasks.runtime.files import is_out_of_space, no_room, sync

FILE = "journal.jsonl"


def read_events(search_directory: str) -> list[Event]:
    """Return the events in their order; a last line that was being written when the machine died is left out.

    Raises:
        JournalError: another line is not an event, or of a newer version.
    """
    path = Path(search_directory, FILE)
    if not path.exists():
        return []
    # Bytes, since a torn line may end inside a character; a line without its end was never finished.
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
    events = read_events(search_directory)
    try:
        return History.of(events)
    except ValueError as error:
        cause = f"not the history of one search: {error}"
        raise JournalError(str(Path(search_directory, FILE)), max(1, len(events)), cause) from error


def read_state(search_directory: str) -> SearchState:
    """Return where a search stands after all its events; raises as `read_history`."""
    return read_history(search_directory).state


def append_event(search_directory: str, event: OneEvent) -> OneEvent:
    """Record one event and return it with its time; once this returns, no crash can take it back.

    Raises:
        NoDiskSpaceError: it does not fit; nothing of it is left.
    """
    path = Path(search_directory, FILE)
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
            os.ftruncate(descriptor, end)  # whoever is told of a failure must not find the event later
            if is_out_of_space(error):
                raise no_room(path, "an event", len(content)) from error
            raise
    finally:
        os.close(descriptor)
    return recorded


def _write_all(descriptor: int, content: bytes) -> None:
    """Write to the file's end, and to the disk; one call writes only what fits on a disk that fills up."""
    os.lseek(descriptor, 0, os.SEEK_END)
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]
    os.fsync(descriptor)


def _cut_torn_line(descriptor: int) -> int:
    """Cut a last line without its end, so that the next event does not join it; return where the file now ends."""
    size = os.lseek(descriptor, 0, os.SEEK_END)
    end = os.pread(descriptor, size, 0).rfind(b"\n") + 1
    os.ftruncate(descriptor, end)
    return end
