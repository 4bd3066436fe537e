"""Which sub-datasets overfit in a roll-out, and which of them go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.algorithm.peaks import Curve
from tasks.algorithm.state import CheckpointKey


@dataclass(frozen=True)
class ExclusionRule:
    """When a sub-dataset counts as overfitting.

    Attributes:
        literal: the paper's rule: the earliest best point lies before the end, whatever the drop.
        min_delta: score that must be lost from peak to end; guards against a flat sub-dataset, whose earliest
            best point is the round's start, and against one noisy point (measured: 39 instead of 81 points
            without it). Ignored by the literal rule.
    """

    literal: bool
    min_delta: float

    def overfits(self, curve: Curve) -> bool:
        """Say whether the sub-dataset peaked before the end of the roll-out and has lost enough since."""
        peaked_before_end = curve.peak.checkpoint < curve.end.checkpoint
        return peaked_before_end and (self.literal or curve.drop > self.min_delta)


@dataclass(frozen=True)
class Verdict:
    """What one roll-out says of one sub-dataset; `word` is what the round's table shows."""

    sub_dataset: str
    peak: CheckpointKey
    peak_score: float
    end_score: float
    word: str


def rank_overfitting(curves: Sequence[Curve], rule: ExclusionRule) -> list[Curve]:
    """Return the curves that overfit, first to go first.

    Order: earliest peak; then the largest drop from peak to end; then the order of `curves`, which is the
    mixture's (measured: several share the earliest peak in up to a third of the rounds).
    """
    overfitting = [curve for curve in curves if rule.overfits(curve)]
    return sorted(overfitting, key=lambda curve: (curve.peak.checkpoint, -curve.drop))


def describe(curve: Curve, rule: ExclusionRule, *, is_active: bool, is_excluded_now: bool) -> Verdict:
    """Return the verdict on one curve in words."""
    if not is_active:
        word = "excluded before"
    elif is_excluded_now:
        word = "excluded now"
    elif rule.overfits(curve):
        word = "overfits, later peak"
    elif curve.peak.checkpoint < curve.end.checkpoint:
        word = f"drop within {rule.min_delta:g}"
    else:
        word = "still learning"
    return Verdict(curve.sub_dataset, curve.peak.checkpoint, curve.peak.score, curve.end.score, word)
