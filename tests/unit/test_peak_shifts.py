"""Peaks and their shifts, from the rounds of a journal."""

from __future__ import annotations

from tasks.algorithm.state import CheckpointKey
from tasks.comparison.frames import peak_epochs, peak_shifts
from tasks.record.events import RoundDecided
from tests.unit.made_events import curve, decided


def round_of(
    index: int,
    curves: dict[str, list[float]],
    active: str,
    exclude: str = "",
    back_to: int = -1,
    start: CheckpointKey | None = None,
) -> RoundDecided:
    """Return a round's event; `curves` has one score per step, `back_to` is the index of the target."""
    first = start or CheckpointKey(0, 0)
    num_steps = len(next(iter(curves.values()))) - 1
    keys = [first, *(CheckpointKey(index, first.step + 1 + i) for i in range(num_steps))]
    return decided(
        index,
        (keys[back_to].round, keys[back_to].step),
        tuple(curves),
        active=tuple(active.split()),
        curves=tuple(curve(name, keys, scores) for name, scores in curves.items()),
        exclude=tuple(exclude.split()),
    )


FIRST = round_of(0, {"a": [0, 5, 4, 3, 2], "b": [0, 1, 2, 3, 3], "c": [0, 1, 5, 4, 4]}, "a b c", "a", 1)
SECOND = round_of(
    1, {"a": [5, 1, 1, 1, 1], "b": [1, 2, 3, 4, 5], "c": [1, 2, 1, 1, 1]}, "b c", start=CheckpointKey(0, 1)
)


def test_peaks_are_in_epochs_and_the_earliest_of_ties() -> None:
    """Two evaluations per epoch; means of the mixture: 0, 7, 11, 10, 9 thirds."""
    found = {row["sub_dataset"]: row for row in peak_epochs([FIRST, SECOND], 2)}
    assert {name: row["peak_epoch"] for name, row in found.items()} == {"a": 0.5, "b": 1.5, "c": 1.0}
    assert {row["mixture_peak_epoch"] for row in found.values()} == {1.0}


def test_peaks_span_rounds_without_an_exclusion() -> None:
    first = round_of(0, {"a": [0, 1, 2], "b": [0, 3, 1]}, "a b")
    second = round_of(1, {"a": [2, 3, 9], "b": [1, 1, 1]}, "a b", start=CheckpointKey(0, 2))
    found = {row["sub_dataset"]: row["peak_epoch"] for row in peak_epochs([first, second], 1)}
    assert found == {"a": 4.0, "b": 1.0}


def test_shifts_are_measured_on_the_accepted_path() -> None:
    """Rolled back to 0.5 epochs: b's peak moves from 1.5 to 0.5 + 2, c's from 1.0 to 0.5 + 0.5."""
    found = peak_shifts([FIRST, SECOND], 2)
    assert [(row["sub_dataset"], row["excluded"], row["peak_after"], row["shift"]) for row in found] == [
        ("b", "a", 2.5, 1.0),
        ("c", "a", 1.0, 0.0),
    ]


def test_rounds_without_exactly_one_exclusion_give_no_shift() -> None:
    advanced = round_of(0, {"a": [0, 1], "b": [0, 1]}, "a b")
    assert peak_shifts([advanced, SECOND], 1) == []
    assert peak_shifts([FIRST], 2) == []
