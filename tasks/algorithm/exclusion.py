"""Which sub-datasets overfit in a roll-out, and which of them go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.algorithm.curves import Curve
from tasks.algorithm.state import CheckpointKey


@dataclass(frozen=True)
class ExclusionRule:
    """When a sub-dataset counts as overfitting.

    Attributes:
        literal: the paper's rule: the earliest best point lies before the end, whatever the drop.
        min_delta: score that must be lost from peak to end; guards against a flat sub-dataset, whose earliest
            best point is the round's start, and against one noisy point (measured: 39 instead of 81 points
            without it). Ignored by the literal rule.
        loss_guard: share above its least by which the validation loss must end; None: whatever the loss does. A
            score that falls while the loss falls too is noise (measured: of 11 exclusions on five seeds the two of
            clean sub-datasets ended at 1.00 times the least loss, the others at 1.09 to 1.62 times).
    """

    literal: bool
    min_delta: float
    loss_guard: float | None = None

    def has_fallen(self, curve: Curve) -> bool:
        """Say whether the sub-dataset peaked before the end of the roll-out and has lost enough score since."""
        peaked_before_end = curve.peak.checkpoint < curve.end.checkpoint
        return peaked_before_end and (self.literal or curve.drop > self.min_delta)

    def overfits(self, curve: Curve) -> bool:
        """Say whether it has, and not by noise alone."""
        return self.has_fallen(curve) and not self.is_noise(curve)

    def is_noise(self, curve: Curve) -> bool:
        """Say whether the loss guard keeps the sub-dataset: its loss has not risen."""
        if self.loss_guard is None:
            return False
        return curve.end.loss < (1 + self.loss_guard) * min(point.loss for point in curve.points)


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
    elif rule.has_fallen(curve):
        word = "drop, loss not risen"
    elif curve.peak.checkpoint < curve.end.checkpoint:
        word = f"drop within {rule.min_delta:g}"
    else:
        word = "still learning"
    return Verdict(curve.sub_dataset, curve.peak.checkpoint, curve.peak.score, curve.end.score, word)
