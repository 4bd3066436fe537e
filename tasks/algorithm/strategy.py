"""What a strategy is: what to do after a roll-out, as one small pure object."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Literal, Protocol

from tasks.algorithm.curves import Curve
from tasks.algorithm.exclusion import Verdict
from tasks.algorithm.state import CheckpointKey

OptimizerAction = Literal["restore", "reset"]
Rehearse = Literal["all", "correct"]
PeakWindow = Literal["round", "path"]


@dataclass(frozen=True)
class RoundReport:
    """What a strategy sees of a round.

    Attributes:
        round: its index.
        active: the sub-datasets trained in full in this roll-out, in the mixture's order.
        curves: validation curves of all N sub-datasets, in the mixture's order; never a test score.
        steps_per_epoch: optimizer steps in one epoch of this round's mixture.
        previous: the rounds before this one, from the first; theirs are empty.
    """

    round: int
    active: tuple[str, ...]
    curves: tuple[Curve, ...]
    steps_per_epoch: float
    previous: tuple[RoundReport, ...] = ()

    @property
    def last(self) -> CheckpointKey:
        """Return the roll-out's last checkpoint."""
        return self.curves[0].end.checkpoint

    def epochs_until(self, checkpoint: CheckpointKey) -> float:
        """Return the epochs of this round's mixture from the roll-out's start to `checkpoint`."""
        start = min(point.checkpoint for point in self.curves[0].points)
        return (checkpoint.step - start.step) / self.steps_per_epoch


@dataclass(frozen=True)
class Opening:
    """What a search begins with.

    Attributes:
        active: the first mixture; None: all sub-datasets.
        rollout_epochs: length of the first roll-out in epochs of its mixture; None: C.
    """

    active: tuple[str, ...] | None = None
    rollout_epochs: float | None = None


@dataclass(frozen=True)
class Decision:
    """What the search does next.

    Attributes:
        exclude, include: sub-datasets that leave, and that come back into, the mixture.
        roll_back_to: where the next roll-out starts; the roll-out's last checkpoint means "advance".
        optimizer: whether the optimizer's state is restored with the weights.
        weights: factor on the share of each sub-dataset named, excluded ones too (rehearsal); else 1 for the
            active ones and 0 for the others.
        rollout_epochs: length of the next roll-out in epochs of its mixture; None: C.
        stop: why the strategy wants no further round; empty: it goes on.
        reason: the decision in words, for a person.
        verdicts: one for each sub-dataset, in the mixture's order.
    """

    roll_back_to: CheckpointKey
    reason: str
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    optimizer: OptimizerAction = "restore"
    weights: Mapping[str, float] | None = None
    rollout_epochs: float | None = None
    stop: str = ""
    verdicts: tuple[Verdict, ...] = field(default=())


class Strategy(Protocol):
    """Turn what the rounds measured into what the search does next, without side effects."""

    def open(self, sub_datasets: tuple[str, ...]) -> Opening:
        """Return what the first round trains on."""
        ...

    def observe(self, report: RoundReport) -> Decision:
        """Return the decision for this round."""
        ...


def rehearsed(report: RoundReport, active: Collection[str], factor: float) -> dict[str, float] | None:
    """Return the weights that keep everything but the next round's `active` at `factor` of its share."""
    names = [curve.sub_dataset for curve in report.curves if curve.sub_dataset not in active]
    return dict.fromkeys(names, factor) if names and factor > 0 else None


def along_the_path(report: RoundReport) -> tuple[Curve, ...]:
    """Return this round's curves with the points before them on the accepted path, back to the base model."""
    paths = [list(curve.points) for curve in report.curves]
    start = min(point.checkpoint for point in paths[0])
    for past in reversed(report.previous):
        if past.round == start.round:
            for path, curve in zip(paths, past.curves, strict=True):
                path += [point for point in curve.points if point.checkpoint < start]
            start = min(point.checkpoint for point in paths[0])
    return tuple(
        Curve(curve.sub_dataset, tuple(sorted(path, key=lambda point: point.checkpoint)))
        for curve, path in zip(report.curves, paths, strict=True)
    )


def drawn_by_lot(report: RoundReport, num: int, random_seed: int) -> tuple[str, ...]:
    """Return `num` of the active sub-datasets: a control for whatever chooses them.

    The draw depends on what was measured, so that searches with other seeds draw otherwise.
    """
    lot = Random(f"{random_seed} {report.round} {[curve.end.loss for curve in report.curves]}")
    return tuple(lot.sample(report.active, num))
