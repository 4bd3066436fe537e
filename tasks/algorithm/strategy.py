"""Strategies: pure objects that decide what follows a roll-out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Literal, Protocol

from tasks.algorithm.curves import Curve, Verdict
from tasks.algorithm.state import CheckpointKey

OptimizerAction = Literal["restore", "reset"]
Rehearse = Literal["all", "correct", "relabelled"]
PeakWindow = Literal["round", "path"]


@dataclass(frozen=True)
class RoundReport:
    """Measurements of a round, the input of a strategy.

    Attributes:
        round: index of the round.
        active: the sub-datasets trained in full in this roll-out, in the mixture's order.
        curves: validation curves of all N sub-datasets, in the mixture's order; never a test score.
        steps_per_epoch: optimizer steps in one epoch of this round's mixture.
        previous: the earlier rounds in order; their own `previous` is empty.
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
    """Start of a search.

    Attributes:
        active: the first mixture; None: all sub-datasets.
        rollout_epochs: length of the first roll-out in epochs of its mixture; None: C.
    """

    active: tuple[str, ...] | None = None
    rollout_epochs: float | None = None


@dataclass(frozen=True)
class Decision:
    """Decision after a round.

    Attributes:
        exclude, include: sub-datasets that leave the mixture, and that return to it.
        roll_back_to: start of the next roll-out; the last checkpoint of this one means "advance".
        optimizer: restore the optimizer's state with the weights, or reset it.
        weights: factor on the share of each named sub-dataset, also of excluded ones (rehearsal); otherwise 1
            for active and 0 for excluded ones.
        relabel: checkpoint of each sub-dataset whose rows are rehearsed with that checkpoint's answers from now on.
        keep: checkpoints that a later decision may name there.
        rollout_epochs: length of the next roll-out in epochs of its mixture; None: C.
        stop: why the strategy ends the search; empty: it continues.
        reason: the decision in words.
        verdicts: one for each sub-dataset, in the mixture's order.
    """

    roll_back_to: CheckpointKey
    reason: str
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    optimizer: OptimizerAction = "restore"
    weights: Mapping[str, float] | None = None
    relabel: Mapping[str, CheckpointKey] | None = None
    keep: tuple[CheckpointKey, ...] = ()
    rollout_epochs: float | None = None
    stop: str = ""
    verdicts: tuple[Verdict, ...] = field(default=())


class Strategy(Protocol):
    """Map the measurements of a round to a decision, without side effects."""

    def open(self, sub_datasets: tuple[str, ...]) -> Opening:
        """Return the start of the search."""
        ...

    def observe(self, report: RoundReport) -> Decision:
        """Return the decision for this round."""
        ...


def rehearsed(report: RoundReport, active: Collection[str], factor: float) -> dict[str, float] | None:
    """Return the weights that keep all sub-datasets outside `active` at `factor` of their shares."""
    names = [curve.sub_dataset for curve in report.curves if curve.sub_dataset not in active]
    return dict.fromkeys(names, factor) if names and factor > 0 else None


def peaks_of(curves: Iterable[Curve], names: Collection[str]) -> dict[str, CheckpointKey]:
    """Return the checkpoint of the best point of each named curve."""
    return {curve.sub_dataset: curve.peak.checkpoint for curve in curves if curve.sub_dataset in names}


def along_the_path(report: RoundReport) -> tuple[Curve, ...]:
    """Return this round's curves extended by the accepted path, back to the base model."""
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


def draw_random_control(report: RoundReport, num: int, random_seed: int) -> tuple[str, ...]:
    """Draw `num` of the active sub-datasets at random, as a control for rules that choose them.

    The draw depends on the losses too, so that it differs between searches with other seeds.
    """
    random = Random(f"{random_seed} {report.round} {[curve.end.loss for curve in report.curves]}")
    return tuple(random.sample(report.active, num))
