"""mSFT, the paper's search."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tasks.algorithm.curves import Curve, ExclusionRule, describe, rank_overfitting, told_fall
from tasks.algorithm.state import CheckpointKey
from tasks.algorithm.strategy import (
    Decision,
    Opening,
    OptimizerAction,
    PeakWindow,
    Rehearse,
    RoundReport,
    along_the_path,
    draw_random_control,
    peaks_of,
    rehearsed,
)


@dataclass(frozen=True)
class Msft:
    """The paper's search (section 3.2): exclude the earliest overfitting sub-dataset, roll back to its peak.

    Attributes:
        rehearsal: factor on the share at which excluded sub-datasets stay in the mixture (paper: 0).
        rehearse: rows to rehearse; "correct": those that the checkpoint rolled back to answers as labelled;
            "relabelled": all, with the answers of the sub-dataset's best checkpoint in this roll-out.
        loss_guard: minimum final loss, as a share above its minimum, of an overfitting sub-dataset; None: score only.
        peak_window: where peaks are searched: "round", this roll-out; "path", the whole accepted path, which also
            shows a small loss in each roll-out. The rollback goes to the best point of this roll-out.
        random_seed: random control: as many leave at the same times with the same rollback, drawn at random;
            None: those that overfit.
    """

    rule: ExclusionRule
    exclude_per_round: int
    optimizer_on_rollback: OptimizerAction
    rehearsal: float = 0.0
    rehearse: Rehearse = "all"
    loss_guard: float | None = None
    peak_window: PeakWindow = "round"
    random_seed: int | None = None

    @property
    def _rule(self) -> ExclusionRule:
        return replace(self.rule, loss_guard=self.loss_guard)

    def open(self, sub_datasets: tuple[str, ...]) -> Opening:
        """Start with all sub-datasets."""
        return Opening()

    def observe(self, report: RoundReport) -> Decision:
        """Exclude the earliest overfitting sub-datasets, or advance if none overfits."""
        return replace(self, rule=self.rule.among(len(report.curves)))._decide(report)

    def _decide(self, report: RoundReport) -> Decision:
        curves = along_the_path(report) if self.peak_window == "path" else report.curves
        active = [curve for curve in curves if curve.sub_dataset in report.active]
        leaving = rank_overfitting(active, self._rule)[: self.exclude_per_round]
        names, note = tuple(curve.sub_dataset for curve in leaving), ""
        if self.random_seed is not None and leaving:
            names = draw_random_control(report, len(leaving), self.random_seed)
            note = f"; but by lot {', '.join(names)} leaves"
        verdicts = tuple(
            describe(c, self._rule, is_active=c.sub_dataset in report.active, is_excluded_now=c.sub_dataset in names)
            for c in curves
        )
        if not leaving:
            weights = rehearsed(report, report.active, self.rehearsal)
            return Decision(report.last, self._reason_to_advance(active), weights=weights, verdicts=verdicts)
        first = next(curve for curve in report.curves if curve.sub_dataset == leaving[0].sub_dataset)
        target = first.peak.checkpoint  # an older peak on the path would cost the others more
        return Decision(
            roll_back_to=target,
            exclude=names,
            optimizer=self.optimizer_on_rollback,
            weights=rehearsed(report, set(report.active) - set(names), self.rehearsal),
            relabel=peaks_of(report.curves, names) if self.rehearse == "relabelled" else None,
            reason=self._reason_to_exclude(leaving, active, report, target) + note,
            verdicts=verdicts,
        )

    def _reason_to_advance(self, active: list[Curve]) -> str:
        if self._rule.literal:
            return "no sub-dataset peaked before the end of the roll-out: advance"
        worst = max(active, key=lambda curve: curve.drop)
        if self._rule.level is not None and not any(map(self._rule.has_fallen, active)):
            least = min(active, key=lambda curve: curve.fall.p_value)
            return (
                f"no active sub-dataset has fallen by its own rows (least p: {told_fall(least, self._rule.level)}): "
                "advance from the end of the roll-out"
            )
        if noisy := [curve for curve in active if self._rule.has_fallen(curve)]:
            falls = ", ".join(f"{curve.sub_dataset} {curve.drop:.3f}" for curve in noisy)
            return f"scores fell ({falls}), but no loss has risen with them: advance from the end of the roll-out"
        return (
            f"no active sub-dataset lost more than {self._rule.min_delta:g} from its peak "
            f"(largest: {worst.sub_dataset}, {worst.drop:.3f}): advance from the end of the roll-out"
        )

    def _reason_to_exclude(
        self, leaving: list[Curve], active: list[Curve], report: RoundReport, target: CheckpointKey
    ) -> str:
        first = leaving[0]
        epochs = report.epochs_until(first.peak.checkpoint)
        overfitting = [curve for curve in active if curve is not first and self._rule.overfits(curve)]
        tied = [curve.sub_dataset for curve in overfitting if curve.peak.checkpoint == first.peak.checkpoint]
        test = f" ({told_fall(first, self._rule.level)})" if self._rule.level is not None else ""
        is_older = epochs < 0
        side = "before" if is_older else "into"
        when = f"{abs(epochs):.2f} epochs {side} the roll-out" if epochs else "at the round's start"
        tie = f"; tied with {', '.join(tied)}, it lost most or stands first in the mixture" if tied else ""
        others = f"; with it goes {', '.join(c.sub_dataset for c in leaving[1:])}" if len(leaving) > 1 else ""
        return (
            f"{first.sub_dataset} peaked earliest, {when} (step {first.peak.checkpoint.step}), at "
            f"{first.peak.score:.3f} and fell to {first.end.score:.3f}{test}{tie}{others}: exclude, roll back to "
            f"{'its best in this one, ' if is_older else ''}{target}"
        )
