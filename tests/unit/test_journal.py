from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from tasks.algorithm.curves import Curve, MetricPoint
from tasks.algorithm.state import CheckpointKey
from tasks.errors import JournalError, NoDiskSpaceError
from tasks.record.events import EnvironmentChanged, Event, of_kind
from tasks.record.journal import append_event, read_events, read_history
from tasks.record.paths import JOURNAL
from tests.unit.made_events import crowned, decided, interval, mixture, restart, started


def _write(directory: Path, content: str | bytes) -> None:
    raw = content if isinstance(content, bytes) else content.encode()
    (directory / JOURNAL).write_bytes(raw)


def _note(*texts: str) -> EnvironmentChanged:
    return EnvironmentChanged(differences=texts, numerical_environment={"threads": None})


def _line(text: str) -> str:
    return json.dumps({"kind": "environment_changed", **_note(text).model_dump(mode="json")})


def _append(directory: Path, *texts: str) -> None:
    append_event(str(directory), _note(*texts))


def _names(directory: Path) -> list[str]:
    return [event.differences[0] for event in of_kind(read_events(str(directory)), EnvironmentChanged)]


def test_a_search_without_a_journal_has_no_events(tmp_path: Path) -> None:
    assert read_events(str(tmp_path)) == []


def test_events_come_back_as_they_were_appended(tmp_path: Path) -> None:
    point = MetricPoint(CheckpointKey(0, 20), 0.1 + 0.2, float("inf"), 3)
    restarted = restart(num_tokens=7, seconds=1e-5)
    events: list[Event] = [
        started(content={"base model": "abc"}),
        _note("naïve\nüber"),
        decided(
            0, (0, 20), exclude=("a",), weights={"a": 0.1}, curves=(Curve("a", (point,)),),
            restarts=(restarted,), intervals=(interval(CheckpointKey(0, 20)),),
            mixture=mixture(0, {"a": 0.5, "b": 0.5}, 200),
        ),
        crowned(),
    ]  # fmt: skip
    recorded = [append_event(str(tmp_path), event) for event in events]
    assert read_events(str(tmp_path)) == recorded
    assert [event.model_copy(update={"at": ""}) for event in recorded] == events
    assert all(event.at.endswith("Z") for event in recorded)


def test_an_event_takes_one_line(tmp_path: Path) -> None:
    _append(tmp_path, "one", "a\nb")
    _append(tmp_path, "two")
    lines = (tmp_path / JOURNAL).read_text().splitlines()
    assert [json.loads(line)["differences"][0] for line in lines] == ["one", "two"]


@pytest.mark.parametrize(
    "torn",
    [
        _line("two")[:-20],
        _line("two"),  # complete but for its line end
        '{"kind": "environment_changed", "differences": ["ü'.encode()[:-1],  # inside a character
    ],
)
def test_a_torn_last_line_is_ignored_and_then_cut(tmp_path: Path, torn: str | bytes) -> None:
    raw = torn if isinstance(torn, bytes) else torn.encode()
    _write(tmp_path, f"{_line('one')}\n".encode() + raw)
    assert _names(tmp_path) == ["one"]
    _append(tmp_path, "three")
    assert _names(tmp_path) == ["one", "three"]
    assert raw not in (tmp_path / JOURNAL).read_bytes()


def test_a_torn_only_line_is_cut_too(tmp_path: Path) -> None:
    _write(tmp_path, '{"kind')
    assert _names(tmp_path) == []
    _append(tmp_path, "one")
    assert _names(tmp_path) == ["one"]


def test_an_event_written_in_pieces_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:7]))
    for name in ("one", "two"):
        _append(tmp_path, name, "naïve")
    assert _names(tmp_path) == ["one", "two"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("fits", [0, 5])
def test_an_event_that_does_not_fit_leaves_nothing(
    tmp_path: Path, number: int, fits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _append(tmp_path, "one")
    before = (tmp_path / JOURNAL).read_bytes()
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
            _append(tmp_path, "two")
    assert (tmp_path / JOURNAL).read_bytes() == before
    _append(tmp_path, "three")
    assert _names(tmp_path) == ["one", "three"]


@pytest.mark.parametrize("broken", ["{", "", "[1]", '"text"', '{"no": "event"}', "3", "null"])
def test_a_broken_inner_line_is_an_error_with_its_number(tmp_path: Path, broken: str) -> None:
    _write(tmp_path, f"{_line('one')}\n{broken}\n{_line('three')}\n")
    with pytest.raises(JournalError, match=rf"{JOURNAL}, line 2: not an event"):
        read_events(str(tmp_path))


def test_a_line_that_is_not_utf_8_is_an_error_with_its_number(tmp_path: Path) -> None:
    _write(tmp_path, f"{_line('one')}\n".encode() + b'{"kind": "\xff"}\n')
    with pytest.raises(JournalError, match="line 2"):
        read_events(str(tmp_path))


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ([started(), decided(1, (0, 20))], "line 2: not the history of one search: decision of round 1 out"),
        ([decided(0, (0, 20))], "line 1: not the history of one search: no event says that a search has started"),
        ([_note("one")], "line 1: not the history of one search: no event says that a search has started"),
        ([], "line 1: not the history of one search: no event says that a search has started"),
    ],
)
def test_events_that_are_no_history_are_an_error_with_the_file(tmp_path: Path, events: list[Event], told: str) -> None:
    for event in events:
        append_event(str(tmp_path), event)
    with pytest.raises(JournalError, match=rf"{JOURNAL}, {told}"):
        read_history(str(tmp_path))


def test_a_missing_field_is_an_error_with_its_name(tmp_path: Path) -> None:
    _write(tmp_path, '{"kind": "search_started", "version": 2, "search_id": "a", "config": {}}\n')
    with pytest.raises(JournalError, match=r"line 1: not an event: search_started\.sub_datasets: Field required"):
        read_events(str(tmp_path))


@pytest.mark.parametrize("version", [3, 0, "2", None])
def test_an_event_of_an_unknown_version_is_an_error_with_a_fix(tmp_path: Path, version: object) -> None:
    line = json.loads(_line("one")) | {"version": version}
    _write(tmp_path, f"{json.dumps(line)}\n")
    with pytest.raises(JournalError, match=r"line 1: an event of version .* where versions 1 to 2 are known") as told:
        read_events(str(tmp_path))
    assert "use the version of msft-search that this search was begun with, or a newer one" in str(told.value)
