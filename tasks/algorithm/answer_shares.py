"""What the answers of a split alone tell: the score of a constant answer, and whether two splits differ in classes."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Answers of more kinds than this are texts, not classes.
MAX_CLASSES = 20
# A constant answer that scores this much leaves little to measure.
_FREQUENT = 0.8
# Of two splits of one source: a difference that chance explains once in a thousand splits, and worth a warning.
_P_VALUE, _DISTANCE = 0.001, 0.05
_MIN_EXPECTED = 5.0


@dataclass(frozen=True)
class SplitFacts:
    """Facts of a split's rows, before anything is trained.

    Attributes:
        num_rows, num_dropped: rows that are used, and rows left out since they are too long.
        top_answer, top_share: the most frequent answer, and its share: what a constant answer scores; None where
            answers are not compared.
    """

    num_rows: int
    num_dropped: int
    top_answer: str | None
    top_share: float | None


def facts_of(answers: Sequence[str] | None, num_rows: int, num_dropped: int) -> SplitFacts:
    """Return the facts of a split; `answers` are those of its rows, None where they are not compared."""
    if not answers:
        return SplitFacts(num_rows, num_dropped, None, None)
    answer, count = Counter(answers).most_common(1)[0]
    return SplitFacts(num_rows, num_dropped, answer, count / len(answers))


def warnings_of(answers: Mapping[str, Sequence[str]], num_unique: Mapping[str, int]) -> list[str]:
    """Return in words what makes the scores of some splits tell nothing.

    Args:
        answers: of all rows, by split.
        num_unique: different rows of each split. Copies of a row are no further draws for a test.
    """
    found = []
    for split, own in answers.items():
        answer, count = Counter(own).most_common(1)[0]
        if count == len(own) > 1:
            found.append(f"all {count:,} {split} rows have the answer {answer!r:.40}, so their score tells nothing")
        elif count >= _FREQUENT * len(own) and split != "train":
            found.append(f"the answer {answer!r:.40} alone scores {count / len(own):.3f} on {split}")
    splits = list(answers)
    for first, second in itertools.pairwise(splits):
        samples = [_Sample(split, Counter(answers[split]), num_unique[split]) for split in (first, second)]
        if difference := _difference(*samples):
            found.append(difference)
    return found


def p_value_of_equal_shares(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """Return the p-value of a chi-square test that two samples, given as counts by class, have the same shares.

    Classes with an expected count below 5 are one, for which the test's approximation holds.
    """
    totals = (sum(first.values()), sum(second.values()))
    both = sum(totals)
    cells: list[tuple[float, float]] = []
    rare = (0.0, 0.0)
    for label in first.keys() | second.keys():
        cell = (first.get(label, 0.0), second.get(label, 0.0))
        if min(totals) * sum(cell) / both >= _MIN_EXPECTED:
            cells.append(cell)
        else:
            rare = (rare[0] + cell[0], rare[1] + cell[1])
    cells += [rare] if sum(rare) else []
    statistic = sum(
        (count - total * sum(cell) / both) ** 2 / (total * sum(cell) / both)
        for cell in cells
        for count, total in zip(cell, totals, strict=True)
    )
    return _chi_square_tail(statistic, len(cells) - 1)


@dataclass(frozen=True)
class _Sample:
    """The answers of a split, and the number of draws that they are worth."""

    split: str
    counts: Mapping[str, int]
    size: int

    def share(self, label: str) -> float:
        return self.counts.get(label, 0) / sum(self.counts.values())


def _difference(first: _Sample, second: _Sample) -> str:
    labels = sorted(first.counts.keys() | second.counts.keys())
    if not 2 <= len(labels) <= min(MAX_CLASSES, first.size / _MIN_EXPECTED):
        return ""
    gaps = {label: abs(first.share(label) - second.share(label)) for label in labels}
    p_value = p_value_of_equal_shares(*({label: s.share(label) * s.size for label in labels} for s in (first, second)))
    if p_value >= _P_VALUE or sum(gaps.values()) / 2 < _DISTANCE:
        return ""
    label = max(labels, key=lambda label: gaps[label])
    shares = f"{first.share(label):.0%} and {second.share(label):.0%}"
    return (
        f"answers have other shares in {first.split} than in {second.split}: {label!r:.40} {shares} "
        f"(chi-square test, p = {p_value:.1g})"
    )


def _chi_square_tail(statistic: float, degrees: int) -> float:
    """Return the probability of a larger chi-square statistic, by the series for whole degrees of freedom."""
    half, start = statistic / 2, 0.5 * (degrees % 2)
    if degrees < 1 or half <= 0:
        return 1.0
    tail = math.erfc(math.sqrt(half)) if start else 0.0
    powers = (index + start for index in range(degrees // 2))
    return min(1.0, tail + sum(math.exp(-half + power * math.log(half) - math.lgamma(power + 1)) for power in powers))
