"""Validation curves of one roll-out: their peaks, which of them overfit, and the champion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from tasks.algorithm.paired import Fall, fall_of
from tasks.algorithm.state import Champion, CheckpointKey
from tasks.errors import EmptyCurveError, NonFiniteScoreError

_DIGITS = 12  # smaller differences between scores are float rounding


@dataclass(frozen=True)
class MetricPoint:
    """One validation score of one sub-dataset at one checkpoint.

    Attributes:
        score: higher is better; an accuracy in [0, 1], or a negated loss.
        loss: mean per completion token, in nats.
        num_examples: validation rows behind the score.
        correct: one 0 or 1 per validation row, in the split's order; empty where scores are losses, and in the
            journals of earlier versions.
    """

    checkpoint: CheckpointKey
    score: float
    loss: float
    num_examples: int
    correct: str = ""


@dataclass(frozen=True)
class Curve:
    """The scores of one sub-dataset over one roll-out, including the point at the round's start."""

    sub_dataset: str
    points: tuple[MetricPoint, ...]

    def __post_init__(self) -> None:
        if not self.points:
            raise EmptyCurveError(self.sub_dataset)
        for point in self.points:
            if not math.isfinite(point.score):
                raise NonFiniteScoreError(self.sub_dataset, f"score at {point.checkpoint}", point.score)

    @property
    def end(self) -> MetricPoint:
        """Return the point at the roll-out's last step."""
        return max(self.points, key=lambda point: point.checkpoint)

    @property
    def peak(self) -> MetricPoint:
        """Return the best-scoring point; the earliest wins a tie (paper, per-sub-dataset optimal compute)."""
        return min(self.points, key=lambda point: (-point.score, point.checkpoint))

    @property
    def drop(self) -> float:
        """Return the score lost from the peak to the end of the roll-out; never negative."""
        # Rounded, so that 0.80 - 0.75 and 0.60 - 0.55 are equal, and neither exceeds a min_delta of 0.05.
        return round(self.peak.score - self.end.score, _DIGITS)

    @cached_property
    def fall(self) -> Fall:
        """Return how the validation rows changed from the peak to the end, with the p-value of that."""
        ordered: list[MetricPoint] = sorted(self.points, key=lambda point: point.checkpoint)
        return fall_of(ordered)

    def at(self, checkpoint: CheckpointKey) -> MetricPoint:
        """Return the point measured at `checkpoint`."""
        return next(point for point in self.points if point.checkpoint == checkpoint)


def mean_scores(curves: Sequence[Curve]) -> dict[CheckpointKey, float]:
    """Return the mean score over all sub-datasets at each checkpoint that all curves share."""
    shared = set.intersection(*({p.checkpoint for p in curve.points} for curve in curves))
    return {key: mean_of([curve.at(key).score for curve in curves]) for key in sorted(shared)}


def mean_of(scores: Sequence[float]) -> float:
    """Return the mean by which checkpoints are chosen."""
    return round(math.fsum(scores) / len(scores), _DIGITS)


def choose_champion(previous: Champion | None, means: Mapping[CheckpointKey, float]) -> Champion:
    """Return the best checkpoint ever published; the earliest published wins a tie.

    Discarded checkpoints count too (measured: one was the best in 14 of 16 searches).
    """
    candidates = [*filter(None, [previous]), *(Champion(key, means[key]) for key in sorted(means))]
    if not candidates:
        raise EmptyCurveError("mean of the mixture")
    return max(candidates, key=lambda champion: champion.score)  # the first of equal ones


@dataclass(frozen=True)
class ExclusionRule:
    """Criterion for overfitting.

    Attributes:
        literal: the paper's rule: the earliest best point lies before the end, whatever the drop.
        min_delta: minimum drop from peak to end; guards against a flat sub-dataset, whose earliest best point is
            the round's start, and against one noisy point (measured: 39 instead of 81 points without it). Ignored
            by the literal rule.
        loss_guard: minimum final validation loss, as a share above its minimum; None: no condition on the loss. A
            score that falls while the loss falls too is noise (measured: of 11 exclusions on five seeds the two of
            clean sub-datasets ended at 1.00 times the minimum loss, the others at 1.09 to 1.62 times).
        level: of the paired test of the validation rows at the peak and at the end (`rule: paired`), which then stands
            in place of `min_delta`; None: no test.
    """

    literal: bool
    min_delta: float
    loss_guard: float | None = None
    level: float | None = None

    def among(self, num_sub_datasets: int) -> ExclusionRule:
        """Return the rule with the level of one look shared out among so many sub-datasets (Bonferroni)."""
        return self if self.level is None else replace(self, level=self.level / num_sub_datasets)

    def has_fallen(self, curve: Curve) -> bool:
        """Return whether the score peaked before the end of the roll-out and has dropped enough since."""
        if curve.peak.checkpoint >= curve.end.checkpoint:
            return False
        if self.level is not None:
            return curve.fall.p_value < self.level
        return self.literal or curve.drop > self.min_delta

    def overfits(self, curve: Curve) -> bool:
        """Return whether the score has fallen and the loss guard does not call it noise."""
        return self.has_fallen(curve) and not self.is_noise(curve)

    def is_noise(self, curve: Curve) -> bool:
        """Return whether the loss guard keeps the sub-dataset, because its loss has not risen."""
        if self.loss_guard is None:
            return False
        return curve.end.loss < (1 + self.loss_guard) * min(point.loss for point in curve.points)


@dataclass(frozen=True)
class Verdict:
    """Result of one roll-out for one sub-dataset; `word` is shown in the round's table."""

    sub_dataset: str
    peak: CheckpointKey
    peak_score: float
    end_score: float
    word: str

    @classmethod
    def of(cls, curve: Curve, word: str) -> Verdict:
        """Return the verdict `word` on a curve."""
        return cls(curve.sub_dataset, curve.peak.checkpoint, curve.peak.score, curve.end.score, word)


def rank_overfitting(curves: Sequence[Curve], rule: ExclusionRule) -> list[Curve]:
    """Return the overfitting curves in the order of exclusion.

    Order: earliest peak; then the largest drop from peak to end; then the order of `curves`, which is the
    mixture's order (measured: several share the earliest peak in up to a third of the rounds).
    """
    overfitting = [curve for curve in curves if rule.overfits(curve)]
    return sorted(overfitting, key=lambda curve: (curve.peak.checkpoint, -curve.drop))


def told_fall(curve: Curve, level: float) -> str:
    """Return the paired test of a curve in words."""
    fall = curve.fall
    return (
        f"{curve.sub_dataset}, {fall.lost} rows right at its peak and wrong now, {fall.won} the reverse, "
        f"p = {fall.p_value:.2g}, significant below {level:.2g}"
    )


def describe(curve: Curve, rule: ExclusionRule, *, is_active: bool, is_excluded_now: bool) -> Verdict:
    """Return the verdict on one curve."""
    if not is_active:
        word = "excluded before"
    elif is_excluded_now:
        word = "excluded now"
    elif rule.overfits(curve):
        word = "overfits, later peak"
    elif rule.has_fallen(curve):
        word = "drop, loss not risen"
    elif curve.peak.checkpoint < curve.end.checkpoint:
        word = f"drop within {rule.min_delta:g}" if rule.level is None else "drop within chance"
    else:
        word = "still learning"
    return Verdict.of(curve, word)
