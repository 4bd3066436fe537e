from __future__ import annotations

import pytest

from tasks.algorithm.curves import Curve, ExclusionRule, MetricPoint, describe, rank_overfitting
from tasks.algorithm.state import CheckpointKey

PAPER = ExclusionRule(literal=True, min_delta=0.05)
GUARDED = ExclusionRule(literal=False, min_delta=0.05)


def _curve(name: str, *scores: float) -> Curve:
    points = (MetricPoint(CheckpointKey(1, 10 * i), score, 1.0, 200) for i, score in enumerate(scores))
    return Curve(name, tuple(points))


@pytest.mark.parametrize(
    ("scores", "paper", "guarded"),
    [
        ((0.1, 0.5, 0.3), True, True),
        ((0.5, 0.1, 0.3), True, True),  # the peak is the round's start
        ((0.1, 0.3, 0.5), False, False),  # the peak is the end
        ((0.3, 0.3, 0.3), True, False),  # flat: the earliest best point is the start
        ((0.1, 0.5, 0.5), True, False),
        ((0.1, 0.50, 0.46), True, False),  # within min_delta
        ((0.1, 0.80, 0.75), True, False),  # exactly min_delta
        ((0.1, 0.60, 0.55), True, False),
        ((0.1, 0.80, 0.749), True, True),
        ((0.4,), False, False),  # nothing was trained
    ],
)
def test_a_sub_dataset_overfits_by_the_rule(scores: tuple[float, ...], paper: bool, guarded: bool) -> None:
    curve = _curve("a", *scores)
    assert PAPER.overfits(curve) == paper
    assert GUARDED.overfits(curve) == guarded


def test_a_min_delta_of_zero_still_asks_for_a_drop() -> None:
    rule = ExclusionRule(literal=False, min_delta=0.0)
    assert not rule.overfits(_curve("a", 0.3, 0.3))
    assert rule.overfits(_curve("a", 0.3, 0.29))


@pytest.mark.parametrize(
    ("curves", "order"),
    [
        # The earliest peak goes first, whatever was lost.
        ([_curve("a", 0.1, 0.2, 0.9, 0.0), _curve("b", 0.1, 0.4, 0.3, 0.3)], ["b", "a"]),
        # Of two with the same peak, the one with the larger drop.
        ([_curve("a", 0.1, 0.5, 0.4), _curve("b", 0.1, 0.5, 0.3)], ["b", "a"]),
        # Of two with the same peak and drop, the first in the mixture.
        ([_curve("b", 0.1, 0.5, 0.3), _curve("a", 0.1, 0.5, 0.3)], ["b", "a"]),
        # Drops that are equal but for float rounding: 0.8 - 0.7 > 0.5 - 0.4 in floats.
        ([_curve("b", 0.1, 0.5, 0.4), _curve("a", 0.1, 0.8, 0.7)], ["b", "a"]),
        # One that does not overfit is not ranked.
        ([_curve("a", 0.1, 0.2, 0.3), _curve("b", 0.5, 0.2, 0.3)], ["b"]),
        ([_curve("a", 0.1, 0.2, 0.3)], []),
        ([], []),
    ],
)
def test_the_first_to_go(curves: list[Curve], order: list[str]) -> None:
    assert [curve.sub_dataset for curve in rank_overfitting(curves, GUARDED)] == order


@pytest.mark.parametrize(
    ("scores", "is_active", "is_excluded_now", "word"),
    [
        ((0.1, 0.5, 0.3), True, True, "excluded now"),
        ((0.1, 0.5, 0.3), True, False, "overfits, later peak"),
        ((0.1, 0.5, 0.3), False, False, "excluded before"),
        ((0.1, 0.5, 0.47), True, False, "drop within 0.05"),
        ((0.1, 0.5, 0.6), True, False, "still learning"),
    ],
)
def test_a_verdict_says_what_became_of_the_sub_dataset(
    scores: tuple[float, ...], is_active: bool, is_excluded_now: bool, word: str
) -> None:
    curve = _curve("a", *scores)
    verdict = describe(curve, GUARDED, is_active=is_active, is_excluded_now=is_excluded_now)
    assert verdict.word == word
    assert (verdict.sub_dataset, verdict.peak_score, verdict.end_score) == ("a", max(scores), scores[-1])
