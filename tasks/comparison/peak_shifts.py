"""Each sub-dataset's peak in a search, and its shift after an exclusion, from the rounds of the journal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from tasks.algorithm.curves import Curve, MetricPoint
from tasks.record.events import RoundDecided


def peak_epochs(rounds: Sequence[RoundDecided], evals_per_epoch: int) -> list[dict[str, Any]]:
    """Return one row per sub-dataset: its peak's epoch and that of the mixture, before the first exclusion.

    The range is from the base model to the end of the roll-out of the first exclusion, or of the search without one.
    The earliest epoch wins a tie. The mixture's peak is that of the mean score over sub-datasets.

    Source: paper, the sub-datasets' optimal compute against the mixture's.
    """
    scores: dict[str, list[float]] = {}
    for event in rounds:
        if set(event.active) != set(event.sub_datasets):
            break
        for curve in event.curves:
            own = scores.setdefault(curve.sub_dataset, [])
            points = [point.score for point in _points(curve)]
            own += points[1:] if own else points  # the first is the end of the roll-out before
        if event.decision.exclude:
            break
    means = [sum(at) / len(at) for at in zip(*scores.values(), strict=True)]
    mixture = _peak(means) / evals_per_epoch
    return [
        {"sub_dataset": name, "peak_epoch": _peak(own) / evals_per_epoch, "mixture_peak_epoch": mixture}
        for name, own in scores.items()
    ]


def peak_shifts(rounds: Sequence[RoundDecided], evals_per_epoch: int) -> list[dict[str, Any]]:
    """Return one row per exclusion and remaining sub-dataset: its peak's epoch before and after.

    Epochs are passes over the active mixture along the accepted path from the base model. Rounds that exclude more than
    one sub-dataset are left out. A peak lies inside its roll-out, so a shift is at most as long as two of them.

    Source: paper, the shift of the optimum when one sub-dataset is removed.
    """
    rows: list[dict[str, Any]] = []
    start = 0
    for event, after in pairwise(rounds):
        before_start, excluded = start, event.decision.exclude
        points = [point.checkpoint for point in _points(event.curves[0])]
        start += points.index(event.decision.roll_back_to)
        if len(excluded) != 1:
            continue
        later = _peaks(after)
        rows += [
            {
                "round": event.round,
                "excluded": excluded[0],
                "sub_dataset": name,
                "peak_before": (before_start + peak) / evals_per_epoch,
                "peak_after": (start + later[name]) / evals_per_epoch,
                "shift": (start + later[name] - before_start - peak) / evals_per_epoch,
            }
            for name, peak in _peaks(event).items()
            if name in after.active
        ]
    return rows


def _peaks(event: RoundDecided) -> dict[str, int]:
    """Return the index of each sub-dataset's peak among the points of a round."""
    return {curve.sub_dataset: _peak([point.score for point in _points(curve)]) for curve in event.curves}


def _points(curve: Curve) -> list[MetricPoint]:
    return sorted(curve.points, key=lambda point: point.checkpoint)


def _peak(scores: Sequence[float]) -> int:
    """Return the index of the best score; the earliest wins a tie."""
    return max(range(len(scores)), key=lambda index: (scores[index], -index))
