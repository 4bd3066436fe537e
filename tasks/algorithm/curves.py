"""Validation curves of one roll-out, their peaks, and the champion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.algorithm.state import Champion, CheckpointKey
from tasks.errors import EmptyCurveError, NonFiniteScoreError

_DIGITS = 12  # smaller differences between scores are float rounding


@dataclass(frozen=True)
class MetricPoint:
    """One validation score of one sub-dataset at one checkpoint.

    Attributes:
        checkpoint: the checkpoint that was scored.
        score: higher is better; an accuracy in [0, 1], or a negated loss.
        loss: mean validation loss per completion token, in nats.
        num_examples: validation rows behind the score.
    """

    checkpoint: CheckpointKey
    score: float
    loss: float
    num_examples: int


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

    def at(self, checkpoint: CheckpointKey) -> MetricPoint:
        """Return the point measured at `checkpoint`."""
        return next(point for point in self.points if point.checkpoint == checkpoint)


def mean_scores(curves: Sequence[Curve]) -> dict[CheckpointKey, float]:
    """Return the mean score over all sub-datasets at each checkpoint that all curves share."""
    shared = set.intersection(*({p.checkpoint for p in curve.points} for curve in curves))
    return {
        key: round(math.fsum(curve.at(key).score for curve in curves) / len(curves), _DIGITS) for key in sorted(shared)
    }


def choose_champion(previous: Champion | None, means: Mapping[CheckpointKey, float]) -> Champion:
    """Return the best checkpoint ever published; the earliest published wins a tie.

    Discarded checkpoints count too (measured: one was the best in 14 of 16 searches).
    """
    best = previous
    for key in sorted(means):
        if best is None or means[key] > best.score:
            best = Champion(key, means[key])
    if best is None:
        raise EmptyCurveError("mean of the mixture")
    return best
