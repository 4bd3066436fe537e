"""Confidence intervals of the difference between two methods, on synthetic scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tasks.comparison.bootstrap import paired_difference

Rng = np.random.Generator


def bits(values: Sequence[bool] | np.ndarray) -> str:
    return "".join("1" if value else "0" for value in values)


def noisy(rng: Rng, rate: float, num_rows: int = 200) -> str:
    return bits(rng.random(num_rows) < rate)


def test_a_method_is_not_different_from_itself() -> None:
    rng = np.random.default_rng(0)
    scores = {"a": [noisy(rng, 0.6) for _ in range(3)], "b": [noisy(rng, 0.8) for _ in range(3)]}
    for shared in ((), ("a", "b")):
        found = paired_difference(scores, scores, shared)
        assert found == (0, 0, 0)


def test_the_mean_weighs_sub_datasets_equally() -> None:
    method = {"small": ["1111"], "large": ["0" * 100]}
    control = {"small": ["0000"], "large": ["0" * 100]}
    assert paired_difference(method, control, ()).mean == pytest.approx(0.5)


def test_a_clear_winner_excludes_zero_a_clear_loser_is_below() -> None:
    rng = np.random.default_rng(1)
    better = {"a": [noisy(rng, 0.9) for _ in range(3)]}
    worse = {"a": [noisy(rng, 0.6) for _ in range(3)]}
    won, lost = paired_difference(better, worse, ()), paired_difference(worse, better, ())
    assert 0.2 < won.low < won.mean < won.high < 0.45
    assert lost.high < 0
    assert lost.mean == pytest.approx(-won.mean)


def test_methods_of_equal_skill_are_not_distinguished() -> None:
    rng = np.random.default_rng(2)
    found = paired_difference(
        {"a": [noisy(rng, 0.7) for _ in range(3)]}, {"a": [noisy(rng, 0.7) for _ in range(3)]}, ()
    )
    assert found.low < 0 < found.high


def test_the_same_scores_give_the_same_interval() -> None:
    rng = np.random.default_rng(3)
    one, two = ({"a": [noisy(rng, 0.7), noisy(rng, 0.7)]} for _ in range(2))
    assert paired_difference(one, two, ()) == paired_difference(one, two, ())


def test_one_seed_gives_the_interval_of_its_rows() -> None:
    """One row in ten was won: the standard error of the mean is sqrt(0.1 · 0.9 / 400) = 0.015."""
    control = "1" * 100 + "0" * 300
    method = "1" * 140 + "0" * 260
    found = paired_difference({"a": [method]}, {"a": [control]}, ())
    assert found.low == pytest.approx(0.1 - 1.96 * 0.015, abs=0.004)
    assert found.high == pytest.approx(0.1 + 1.96 * 0.015, abs=0.004)


def test_pairing_narrows_the_interval_of_correlated_rows() -> None:
    """The accuracies are the same; only the correlation of the rows differs."""
    rng = np.random.default_rng(4)
    control = rng.random(400) < 0.6
    method = control | (rng.random(400) < 0.1)
    paired = paired_difference({"a": [bits(method)]}, {"a": [bits(control)]}, ())
    unpaired = paired_difference({"a": [bits(rng.permutation(method))]}, {"a": [bits(control)]}, ())
    assert paired.mean == pytest.approx(unpaired.mean)
    assert (paired.high - paired.low) < 0.6 * (unpaired.high - unpaired.low)


def test_rows_that_all_seeds_share_count_once() -> None:
    """Five seeds with the same test rows narrow the interval no more than one; five test sets do."""
    control, method = "0" * 200, "1" * 20 + "0" * 180
    shared = paired_difference({"a": [method] * 5}, {"a": [control] * 5}, ("a",))
    own = paired_difference({"a": [method] * 5}, {"a": [control] * 5}, ())
    assert (own.high - own.low) == pytest.approx((shared.high - shared.low) / 5**0.5, rel=0.1)


@pytest.mark.parametrize(("num_seeds", "seed_spread", "least"), [(3, 0.0, 0.95), (5, 0.05, 0.88)])
def test_the_interval_has_about_its_stated_coverage(num_seeds: int, seed_spread: float, least: float) -> None:
    """Two sub-datasets of 200 rows; `seed_spread` is the standard deviation of the true difference over seeds.

    Plain percentiles cover it in four of five cases with five seeds.
    """
    rng = np.random.default_rng(5)
    num_held = 0
    for _ in range(200):
        shifts = rng.normal(0.05, seed_spread, num_seeds)
        control = {name: [noisy(rng, 0.6) for _ in shifts] for name in "ab"}
        method = {name: [noisy(rng, 0.6 + shift) for shift in shifts] for name in "ab"}
        found = paired_difference(method, control, (), num_resamples=500)
        num_held += found.low <= 0.05 <= found.high
    assert least <= num_held / 200 <= 1
