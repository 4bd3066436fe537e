from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from tasks.errors import JournalError, NoDiskSpaceError
from tasks.record.journal import FILE, append_event, read_events, read_state


def _write(directory: Path, content: str | bytes) -> None:
    raw = content if isinstance(content, bytes) else content.encode()
    (directory / FILE).write_bytes(raw)


def _names(directory: Path) -> list[str]:
    return [event["event"] for event in read_events(str(directory))]


def test_a_search_without_a_journal_has_no_events(tmp_path: Path) -> None:
    assert read_events(str(tmp_path)) == []


def test_events_come_back_as_they_were_appended(tmp_path: Path) -> None:
    events = [{"event": "one", "text": "naïve\nüber"}, {"event": "two", "numbers": [1, 0.25, None]}]
    for event in events:
        append_event(str(tmp_path), event)
    read = read_events(str(tmp_path))
    assert [{key: value for key, value in event.items() if key != "at"} for event in read] == events
    assert all(event["at"].endswith("Z") for event in read)


def test_an_event_takes_one_line(tmp_path: Path) -> None:
    append_event(str(tmp_path), {"event": "one", "text": "a\nb"})
    append_event(str(tmp_path), {"event": "two"})
    lines = (tmp_path / FILE).read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["one", "two"]


@pytest.mark.parametrize(
    "torn",
    [
        '{"event": "tw',
        '{"event": "two"}',  # whole, but its end was never written
        '{"event": "two", "text": "ü'.encode()[:-1],  # inside a character
    ],
)
def test_a_torn_last_line_is_left_out_and_then_cut(tmp_path: Path, torn: str | bytes) -> None:
    raw = torn if isinstance(torn, bytes) else torn.encode()
    _write(tmp_path, b'{"event": "one"}\n' + raw)
    assert _names(tmp_path) == ["one"]
    append_event(str(tmp_path), {"event": "three"})
    assert _names(tmp_path) == ["one", "three"]
    assert raw not in (tmp_path / FILE).read_bytes()


def test_a_torn_only_line_is_cut_too(tmp_path: Path) -> None:
    _write(tmp_path, '{"event')
    assert _names(tmp_path) == []
    append_event(str(tmp_path), {"event": "one"})
    assert _names(tmp_path) == ["one"]


def test_an_event_that_is_written_in_pieces_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:7]))
    for name in ("one", "two"):
        append_event(str(tmp_path), {"event": name, "text": "naïve"})
    assert _names(tmp_path) == ["one", "two"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("fits", [0, 5])
def test_nothing_is_left_of_an_event_that_does_not_fit(
    tmp_path: Path, number: int, fits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    append_event(str(tmp_path), {"event": "one"})
    before = (tmp_path / FILE).read_bytes()
    write, room = os.write, fits

    def fills_up(descriptor: int, content: bytes) -> int:
        nonlocal room
        if room == 0:
            raise OSError(number, os.strerror(number))
        taken, room = write(descriptor, content[:room]), 0
        return taken

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fills_up)
        with pytest.raises(NoDiskSpaceError, match="no room for an event"):
            append_event(str(tmp_path), {"event": "two"})
    assert (tmp_path / FILE).read_bytes() == before
    append_event(str(tmp_path), {"event": "three"})
    assert _names(tmp_path) == ["one", "three"]


@pytest.mark.parametrize("broken", ["{", "", "[1]", '"text"', '{"no": "event"}', "3", "null"])
def test_a_broken_line_before_the_end_is_an_error_with_its_number(tmp_path: Path, broken: str) -> None:
    _write(tmp_path, f'{{"event": "one"}}\n{broken}\n{{"event": "three"}}\n')
    with pytest.raises(JournalError, match=rf"{FILE}, line 2: not an event"):
        read_events(str(tmp_path))


def test_a_line_that_is_not_utf_8_is_an_error_with_its_number(tmp_path: Path) -> None:
    _write(tmp_path, b'{"event": "one"}\n{"event": "\xff"}\n')
    with pytest.raises(JournalError, match="line 2"):
        read_events(str(tmp_path))


@pytest.mark.parametrize(
    ("events", "told"),
    [
        (
            '{"event": "round_decided", "round": 0}\n',
            "line 1: not the history of one search: decision of round 0 out",
        ),
        ('{"event": "search_started"}\n', "line 1: not the history of one search: 'sub_datasets'"),
        ('{"event": "world_changed"}\n', "line 1: no event says that a search has started"),
        ("", "line 1: no event says that a search has started"),
    ],
)
def test_events_that_are_no_history_are_an_error_that_names_the_file(
    tmp_path: Path, events: str, told: str
) -> None:
    _write(tmp_path, events)
    with pytest.raises(JournalError, match=rf"{FILE}, {told}"):
        read_state(str(tmp_path))
