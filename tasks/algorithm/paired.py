"""Whether a sub-dataset is worse now than at its peak, by its own validation rows: McNemar's exact test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb
from random import Random
from typing import Protocol

ERROR = 0.05  # share of the searches in which nothing falls that exclude anything, at most
_NUM_SPLITS = 25
_SEED = 2603_21606  # any; fixed, so that a decision is a function of the rows


class Point(Protocol):
    """The right and wrong rows of a checkpoint, as in `MetricPoint`."""

    @property
    def correct(self) -> str: ...


@dataclass(frozen=True)
class Fall:
    """Rows that were right at the peak and are wrong now (`lost`), the reverse (`won`), and the p-value of the two."""

    lost: int
    won: int
    p_value: float


def fall_of(points: Sequence[Point]) -> Fall:
    """Return how a sub-dataset fell from its peak to the last of its points, by the rows of both.

    The peak is chosen on a random third of the rows and compared on the others, since a peak that is chosen and
    compared on the same rows is too high. The p-value is twice the median over 25 such splits, which is valid however
    they depend on each other. Points whose rows are not on record are left out; without the last one's, nothing fell.

    Source: McNemar, Psychometrika 12 (1947), exact by the binomial distribution and one-sided; splits, Meinshausen,
        Meier & Bühlmann, p-Values for High-Dimensional Regression, JASA 104 (2009).
    """
    num_rows = len(points[-1].correct)
    rows = [int(point.correct, 2) for point in points if num_rows and len(point.correct) == num_rows]
    if len(rows) < 2:
        return Fall(0, 0, 1.0)
    falls = sorted((_fall(rows, *split) for split in _splits(num_rows)), key=lambda fall: fall.p_value)
    middle = falls[len(falls) // 2]
    return Fall(middle.lost, middle.won, min(1.0, 2 * middle.p_value))


def _fall(rows: Sequence[int], chosen: int, read: int) -> Fall:
    right = [(row & chosen).bit_count() for row in rows]
    peak, now = rows[right.index(max(right))], rows[-1]  # the earliest of equal ones
    lost, won = (peak & ~now & read).bit_count(), (now & ~peak & read).bit_count()
    num = lost + won
    return Fall(lost, won, sum(comb(num, count) for count in range(lost, num + 1)) / 2**num)


@lru_cache(maxsize=64)
def _splits(num_rows: int) -> tuple[tuple[int, int], ...]:
    """Return sets of rows, as bits: those that choose, and those that are compared."""
    random, splits = Random(f"{_SEED} {num_rows}"), []
    for _ in range(_NUM_SPLITS):
        chosen = sum(1 << row for row in random.sample(range(num_rows), num_rows // 3))
        splits.append((chosen, (1 << num_rows) - 1 - chosen))
    return tuple(splits)
