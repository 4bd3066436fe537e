"""`msft profile`: every moment of a command is in one line, by what it or the worker that it waits for does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.commands.profile import LINES, seconds_of
from tasks.runtime.spans import FILE, Span, read_spans, span, traced

FLOW, TRAINER, SCORER = 1, 2, 3
TRAIN, SCORE = "tasks.workers.train", "tasks.workers.score"


def spans_of(*spans: tuple[int, str, float, float]) -> list[Span]:
    return sorted((Span(*one, {}) for one in spans), key=lambda one: one.began)


SPANS = spans_of(
    (FLOW, "imports", 2, 5),
    (FLOW, "process start", 5, 6),
    (FLOW, "preparation", 6, 10),
    (FLOW, "MLflow calls", 11, 13),
    (FLOW, "MLflow", 12, 13),
    (FLOW, TRAIN, 14, 40),
    (TRAINER, "imports", 8, 16),
    (TRAINER, TRAIN, 17, 39),
    (TRAINER, "model loading", 17, 19),
    (TRAINER, "checkpoint writing", 30, 33),
    (SCORER, SCORE, 18, 38),  # beside training: the flow does not wait for it
    (FLOW, SCORE, 42, 50),
    (SCORER, SCORE, 43, 50),
    (FLOW, "exits", 55, 56),
)


def test_the_lines_sum_to_the_wall() -> None:
    seconds = seconds_of(SPANS, FLOW, began=0, ended=60)
    assert list(seconds) == list(LINES)
    assert sum(seconds.values()) == 60


def test_each_moment_is_in_the_line_of_what_is_done() -> None:
    seconds = seconds_of(SPANS, FLOW, began=0, ended=60)
    assert seconds == {
        "process starts": 3,
        "imports": 5,  # the flow's own, and those of the trainer that it waits for
        "preparation": 4,
        "model loading": 2,
        "training steps": 17,
        "checkpoint writing": 3,
        "scoring": 7,
        "MLflow": 2,
        "Prefect and the flow": 9,
        "waits": 3,
        "exits": 5,
    }


def test_a_worker_that_starts_while_it_is_awaited_counts_as_start() -> None:
    spans = spans_of((FLOW, TRAIN, 0, 10), (TRAINER, "imports", 4, 6), (TRAINER, TRAIN, 6, 10))
    seconds = seconds_of(spans, FLOW, began=0, ended=10)
    assert (seconds["process starts"], seconds["imports"], seconds["training steps"]) == (4, 2, 4)


def test_spans_are_recorded_only_where_a_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"a": 1}
    assert traced("calls", values) is values
    with span("before"):
        pass
    monkeypatch.setenv(FILE, str(tmp_path / "spans"))
    with span("outer") as figures:
        assert traced("calls", values).get("a") == 1
        figures["rows"] = 3
    outer, call = read_spans(tmp_path / "spans")
    assert (outer.name, outer.figures, call.name) == ("outer", {"rows": 3}, "calls")
    assert outer.began <= call.began <= call.ended <= outer.ended


def test_a_span_is_recorded_where_its_block_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FILE, str(tmp_path / "spans"))
    with pytest.raises(ValueError, match="no"), span("failed"):
        raise ValueError("no")
    assert [one.name for one in read_spans(tmp_path / "spans")] == ["failed"]
