"""Intervals and p-values of the difference between two methods, on synthetic scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from tasks.comparison.intervals import Variances, half_width, holm, paired_difference

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
        assert found == (0, 0, 0, 1, (0, 0, 0))


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


@pytest.mark.parametrize("shares_rows", [False, True])
@pytest.mark.parametrize(
    ("num_seeds", "seed_spread"),
    [(1, 0.0), *((seeds, spread) for seeds in (2, 3, 5, 10) for spread in (0.0, 0.1, 0.3))],
)
def test_the_interval_has_its_stated_coverage(num_seeds: int, seed_spread: float, shares_rows: bool) -> None:
    """2,000 comparisons of three sub-datasets with 60 test rows; some rows favour one method with every seed.

    A row is won above a threshold, and lost below its negative, by a normal variable: that of the row, that of the
    seed (`seed_spread`: 0.3 moves the true difference by about 8 points from seed to seed), and noise.
    """
    rng, shape = np.random.default_rng(7), (2000, num_seeds, 3, 60)
    of_row = rng.standard_normal((2000, 1 if shares_rows else num_seeds, 3, 60)).astype(np.float32)
    of_seed = seed_spread * rng.standard_normal((2000, num_seeds, 1, 1), dtype=np.float32)
    latent = 0.1 + of_seed + 0.8 * of_row + 0.6 * rng.standard_normal(shape, dtype=np.float32)
    rows = (latent > 1.0).astype(np.float32) - (latent < -1.0)
    scale = (1 + seed_spread**2) ** 0.5
    true = stats.norm.cdf(-0.9 / scale) - stats.norm.cdf(-1.1 / scale)

    by_seed = rows.mean(axis=(2, 3))
    nothing = np.zeros(len(rows))
    of_seeds = by_seed.var(axis=1, ddof=1) / num_seeds if num_seeds > 1 else nothing
    if shares_rows:
        of_rows = (rows.mean(axis=1).var(axis=2, ddof=1) / 60).sum(axis=1) / 9
        variances = Variances(of_seeds, nothing, of_rows)
    else:
        variances = Variances(of_seeds, (rows.var(axis=3, ddof=1) / 60).sum(axis=(1, 2)) / 9 / num_seeds**2, nothing)
    one = {f"{k}": [bits(rows[0, s, k] > 0) for s in range(num_seeds)] for k in range(3)}
    other = {f"{k}": [bits(rows[0, s, k] < 0) for s in range(num_seeds)] for k in range(3)}
    found = paired_difference(one, other, tuple(one) if shares_rows else ())
    assert found.high - found.mean == pytest.approx(float(half_width(variances, num_seeds)[0]), rel=1e-4)
    held = np.abs(by_seed.mean(axis=1) - true) <= half_width(variances, num_seeds)
    assert held.mean() >= 0.935, "and so 93 % but for the noise of 2,000 draws"


def test_the_p_value_is_where_the_interval_touches_zero() -> None:
    rng = np.random.default_rng(8)
    method, control = ({"a": [noisy(rng, rate) for _ in range(3)]} for rate in (0.75, 0.65))
    found = paired_difference(method, control, ("a",))
    by_seed = np.array(found.by_seed)
    assert found.mean == pytest.approx(by_seed.mean())
    rows = np.mean(
        [[int(x) - int(y) for x, y in zip(*pair, strict=True)] for pair in zip(method["a"], control["a"], strict=True)],
        axis=0,
    )
    variances = Variances(np.array(by_seed.var(ddof=1) / 3), np.array(0.0), np.array(rows.var(ddof=1) / 200))
    assert half_width(variances, 3, found.p_value) == pytest.approx(found.mean)
    assert (found.p_value < 0.05) == (found.low > 0)


def test_two_seeds_that_agree_by_chance_keep_their_rows_noise() -> None:
    method = {"a": ["1" * 60 + "0" * 40, "0" * 40 + "1" * 60]}
    control = {"a": ["0" * 50 + "1" * 50, "1" * 50 + "0" * 50]}
    found = paired_difference(method, control, ())
    assert found.by_seed == pytest.approx((0.1, 0.1))
    assert found.low < 0.1 < found.high


def test_holm_corrects_the_smallest_p_value_most() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.2]) == [0.2]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
