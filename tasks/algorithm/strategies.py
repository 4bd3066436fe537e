"""Strategies: what to do after a roll-out. Each is one small pure object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from tasks.algorithm.exclusion import ExclusionRule, Verdict, describe, rank_overfitting
from tasks.algorithm.peaks import Curve
from tasks.algorithm.state import CheckpointKey

OptimizerAction = Literal["restore", "reset"]


@dataclass(frozen=True)
class RoundReport:
    """What a strategy sees of a round.

    Attributes:
        round: its index.
        active: the sub-datasets trained in this roll-out, in the mixture's order.
        curves: validation curves of all N sub-datasets, in the mixture's order; never a test score.
        steps_per_epoch: optimizer steps in one epoch of this round's mixture.
    """

    round: int
    active: tuple[str, ...]
    curves: tuple[Curve, ...]
    steps_per_epoch: float


@dataclass(frozen=True)
class Decision:
    """What the search does next.

    Attributes:
        exclude, include: sub-datasets that leave, and that come back into, the mixture.
        roll_back_to: where the next roll-out starts; the roll-out's last checkpoint means "advance".
        optimizer: whether the optimizer's state is restored with the weights.
        weights: new proportions for the mixture; None leaves them as configured.
        stop: whether the strategy wants no further round.
        reason: the decision in words, for a person.
        verdicts: one for each sub-dataset, in the mixture's order.
    """

    roll_back_to: CheckpointKey
    reason: str
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    optimizer: OptimizerAction = "restore"
    weights: Mapping[str, float] | None = None
    stop: bool = False
    verdicts: tuple[Verdict, ...] = field(default=())


class Strategy(Protocol):
    """Turn what a round measured into what the search does next, without side effects."""

    def observe(self, report: RoundReport) -> Decision:
        """Return the decision for this round."""
        ...


@dataclass(frozen=True)
class Msft:
    """The paper's search (section 3.2): exclude what overfits earliest and roll back to its peak."""

    rule: ExclusionRule
    exclude_per_round: int
    optimizer_on_rollback: OptimizerAction

    def observe(self, report: RoundReport) -> Decision:
        """Exclude the earliest overfitting sub-datasets, or advance where none overfits."""
        active = [curve for curve in report.curves if curve.sub_dataset in report.active]
        leaving = rank_overfitting(active, self.rule)[: self.exclude_per_round]
        names = tuple(curve.sub_dataset for curve in leaving)
        verdicts = tuple(
            describe(
                curve,
                self.rule,
                is_active=curve.sub_dataset in report.active,
                is_excluded_now=curve.sub_dataset in names,
            )
            for curve in report.curves
        )
        if not leaving:
            last = active[0].end.checkpoint
            return Decision(last, self._reason_to_advance(active), verdicts=verdicts)
        target = leaving[0].peak.checkpoint
        return Decision(
            roll_back_to=target,
            exclude=names,
            optimizer=self.optimizer_on_rollback,
            reason=self._reason_to_exclude(leaving, active, report),
            verdicts=verdicts,
        )

    def _reason_to_advance(self, active: list[Curve]) -> str:
        if self.rule.literal:
            return "no sub-dataset peaked before the end of the roll-out: advance"
        worst = max(active, key=lambda curve: curve.drop)
        return (
            f"no active sub-dataset lost more than {self.rule.min_delta:g} from its peak "
            f"(largest: {worst.sub_dataset}, {worst.drop:.3f}): advance from the end of the roll-out"
        )

    def _reason_to_exclude(self, leaving: list[Curve], active: list[Curve], report: RoundReport) -> str:
        first = leaving[0]
        start = min(point.checkpoint for point in first.points)
        epochs = (first.peak.checkpoint.step - start.step) / report.steps_per_epoch
        tied = [
            curve.sub_dataset
            for curve in active
            if self.rule.overfits(curve) and curve.peak.checkpoint == first.peak.checkpoint
        ]
        when = "at the round's start" if epochs == 0 else f"{epochs:.2f} epochs into the roll-out"
        tie = (
            f"; tied with {', '.join(n for n in tied if n != first.sub_dataset)}, it lost most "
            "or stands first in the mixture"
            if len(tied) > 1
            else ""
        )
        others = f"; with it goes {', '.join(c.sub_dataset for c in leaving[1:])}" if len(leaving) > 1 else ""
        return (
            f"{first.sub_dataset} peaked earliest, {when} (step {first.peak.checkpoint.step}), at "
            f"{first.peak.score:.3f} and fell to {first.end.score:.3f}{tie}{others}: exclude, roll back to "
            f"{first.peak.checkpoint}"
        )
