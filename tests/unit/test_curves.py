from __future__ import annotations

import math

import pytest

from tasks.algorithm.curves import Curve, MetricPoint, choose_champion, mean_scores
from tasks.algorithm.state import Champion, CheckpointKey
from tasks.errors import EmptyCurveError, NonFiniteScoreError

START = CheckpointKey(0, 0)


def _key(index: int) -> CheckpointKey:
    """Return the checkpoint after `index` intervals of 10 steps; 0 is the roll-out's start."""
    return START if index == 0 else CheckpointKey(1, 10 * index)


def _curve(name: str, *scores: float) -> Curve:
    return Curve(name, tuple(MetricPoint(_key(i), score, 1.0, 200) for i, score in enumerate(scores)))


@pytest.mark.parametrize(
    ("scores", "peak", "drop"),
    [
        ((0.1, 0.5, 0.3, 0.4), 1, 0.1),
        ((0.1, 0.5, 0.5, 0.4), 1, 0.1),  # a tie goes to the earlier checkpoint
        ((0.5, 0.4, 0.5, 0.5), 0, 0.0),  # also in a tie with the end
        ((0.3, 0.3, 0.3), 0, 0.0),
        ((0.6, 0.2, 0.1), 0, 0.5),
        ((0.1, 0.2, 0.3), 2, 0.0),
        ((-1.5, -0.5, -2.5), 1, 2.0),  # negated losses
    ],
)
def test_the_peak_is_the_earliest_best_point(scores: tuple[float, ...], peak: int, drop: float) -> None:
    curve = _curve("a", *scores)
    assert curve.peak.checkpoint == _key(peak)
    assert curve.drop == drop


def test_the_order_of_the_points_does_not_matter() -> None:
    forward = _curve("a", 0.2, 0.6, 0.6, 0.4)
    backward = Curve("a", forward.points[::-1])
    assert (
        (backward.peak, backward.end)
        == (forward.peak, forward.end)
        == (MetricPoint(_key(1), 0.6, 1.0, 200), MetricPoint(_key(3), 0.4, 1.0, 200))
    )


@pytest.mark.parametrize(("peak", "end"), [(0.80, 0.75), (0.60, 0.55), (0.35, 0.30), (1.0, 0.95)])
def test_equal_drops_are_equal_despite_float_rounding(peak: float, end: float) -> None:
    assert _curve("a", peak, end).drop == 0.05


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_non_finite_score_is_an_error_with_the_sub_dataset(score: float) -> None:
    with pytest.raises(NonFiniteScoreError, match=r"'roman', score at round 1 step 10") as caught:
        _curve("roman", 0.5, score)
    assert str(score) in str(caught.value)


def test_an_empty_curve_is_an_error_with_the_sub_dataset() -> None:
    with pytest.raises(EmptyCurveError, match="'roman' has no validation score"):
        Curve("roman", ())


def test_a_round_start_precedes_the_steps_trained_from_it() -> None:
    # Round 1 starts from step 20 of round 0 and counts on from 20.
    points = ((CheckpointKey(1, 30), 0.4), (CheckpointKey(0, 20), 0.7), (CheckpointKey(1, 40), 0.2))
    curve = Curve("a", tuple(MetricPoint(key, score, 1.0, 200) for key, score in points))
    assert curve.peak.checkpoint == CheckpointKey(0, 20)
    assert curve.end.checkpoint == CheckpointKey(1, 40)


def test_mean_scores_weigh_every_sub_dataset_alike() -> None:
    means = mean_scores([_curve("a", 0.1, 0.4), _curve("b", 0.3, 0.5), _curve("c", 0.5, 0.9)])
    assert means == {_key(0): 0.3, _key(1): 0.6}


def test_mean_scores_cover_the_checkpoints_that_all_curves_share() -> None:
    assert list(mean_scores([_curve("a", 0.1, 0.4, 0.7), _curve("b", 0.3, 0.5)])) == [_key(0), _key(1)]


def test_a_champion_tie_goes_to_the_earliest_published() -> None:
    means = {CheckpointKey(1, 30): 0.5, CheckpointKey(1, 10): 0.5, CheckpointKey(2, 5): 0.5}
    assert choose_champion(None, means) == Champion(CheckpointKey(1, 10), 0.5)


def test_means_that_differ_by_float_rounding_are_a_tie() -> None:
    curves = [_curve("a", 0.15, 0.1), _curve("b", 0.15, 0.2)]  # 0.1 + 0.2 > 0.15 + 0.15 in floats
    assert choose_champion(None, mean_scores(curves)).checkpoint == _key(0)


def test_a_champion_stays_until_beaten() -> None:
    before = Champion(CheckpointKey(0, 20), 0.5)
    assert choose_champion(before, {CheckpointKey(1, 10): 0.5}) == before
    better = choose_champion(before, {CheckpointKey(1, 10): 0.6, CheckpointKey(1, 20): 0.4})
    assert better == Champion(CheckpointKey(1, 10), 0.6)


def test_a_champion_without_scores_is_an_error() -> None:
    with pytest.raises(EmptyCurveError):
        choose_champion(None, {})
