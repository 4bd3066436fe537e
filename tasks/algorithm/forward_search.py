"""The forward search: mSFT's exclusions without a rollback (search.md, "Beyond the paper")."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import takewhile

from tasks.algorithm.curves import Curve, ExclusionRule, MetricPoint, Verdict, told_fall
from tasks.algorithm.state import CheckpointKey
from tasks.algorithm.strategy import Decision, Opening, Rehearse, RoundReport, draw_random_control, peaks_of, rehearsed

_DIGITS = 12  # as in curves.py
_UNTESTED = ExclusionRule(literal=False, min_delta=0.0)


@dataclass(frozen=True)
class Forward:
    """Exclude overfitting sub-datasets and train on; a small share of them stays, so that they are not forgotten.

    Nothing is discarded, so all that overfit leave in the same round.

    Attributes:
        min_delta: drop below the peak that counts as overfitting, in each of the last `persist` scores.
        persist: number of consecutive scores.
        loss_guard: minimum final validation loss, as a share above its minimum; a noisy accuracy alone excludes
            nothing (measured: +3.5 with the guard, +2.2 without, over SFT with averaged weights).
        rehearsal: factor on the share at which excluded sub-datasets stay in the mixture.
        rehearse: rows to rehearse; "correct": those that the model answers as labelled when a round begins;
            "relabelled": all, with the answers of the sub-dataset's best checkpoint since it was last admitted.
        readmit_drop: drop below the score at its exclusion at which a sub-dataset returns; None: never.
        random_seed: random control: as many leave at the same times, drawn at random; None: those that overfit.
        rule: of it only `level` counts: the paired test in place of `min_delta` and `persist`.
    """

    min_delta: float
    persist: int = 2
    loss_guard: float = 0.1
    rehearsal: float = 0.1
    rehearse: Rehearse = "all"
    readmit_drop: float | None = None
    random_seed: int | None = None
    rule: ExclusionRule = _UNTESTED

    def open(self, sub_datasets: tuple[str, ...]) -> Opening:
        """Start with all sub-datasets."""
        return Opening()

    def observe(self, report: RoundReport) -> Decision:
        """Exclude all that overfit, readmit the forgotten, and continue from the end."""
        return replace(self, rule=self.rule.among(len(report.curves)))._decide(report)

    def _decide(self, report: RoundReport) -> Decision:
        spells = {curve.sub_dataset: _spell_of(report, curve.sub_dataset) for curve in report.curves}
        leaving = tuple(n for n in report.active if self._overfits(spells[n]))
        if self.random_seed is not None:
            leaving = draw_random_control(report, len(leaving), self.random_seed)
        returning = tuple(
            name for name, spell in spells.items() if name not in report.active and self._is_forgotten(report, spell)
        )
        active = (set(report.active) - set(leaving)) | set(returning)
        relabels = self.rehearse == "relabelled"
        staying = [name for name in report.active if name in active] if relabels else []
        return Decision(
            report.last,
            self._reason(spells, leaving, returning),
            exclude=leaving,
            include=returning,
            weights=rehearsed(report, active, self.rehearsal),
            relabel=peaks_of(spells.values(), leaving) if relabels and leaving else None,
            keep=tuple(sorted(set(peaks_of(spells.values(), staying).values()))),
            verdicts=tuple(self._verdict(spell, report, leaving, returning) for spell in spells.values()),
        )

    def _overfits(self, spell: Curve) -> bool:
        least = min(point.loss for point in spell.points)
        is_risen = spell.end.loss >= (1 + self.loss_guard) * least
        if self.rule.level is not None:
            return is_risen and self.rule.has_fallen(spell)
        recent = spell.points[-self.persist :]
        is_below = all(_below(spell.peak.score, point) >= self.min_delta for point in recent)
        return is_below and self.min_delta > 0 and is_risen

    def _is_forgotten(self, report: RoundReport, spell: Curve) -> bool:
        if self.readmit_drop is None or len(spell.points) <= self.persist:
            return False
        recent = spell.points[-self.persist :]
        return all(_below(spell.points[0].score, point) >= self.readmit_drop for point in recent)

    def _reason(self, spells: dict[str, Curve], leaving: tuple[str, ...], returning: tuple[str, ...]) -> str:
        if self.random_seed is not None and leaving:
            return f"drawn by lot to leave: {', '.join(leaving)}; go on from the end of the roll-out"
        parts = [
            f"{name} fell from {spells[name].peak.score:.3f} (step {spells[name].peak.checkpoint.step}) to "
            f"{spells[name].end.score:.3f} while its loss rose{self._told(spells[name])}"
            for name in leaving
        ]
        told = [f"{'; '.join(parts)}: exclude, keep at {self.rehearsal:.0%} of its share"] if parts else []
        told += [f"forgotten since its exclusion, taken back: {', '.join(returning)}"] if returning else []
        return f"{'; '.join(told) or 'no active sub-dataset overfits'}; go on from the end of the roll-out"

    def _told(self, spell: Curve) -> str:
        return f" ({told_fall(spell, self.rule.level)})" if self.rule.level is not None else ""

    def _verdict(
        self, spell: Curve, report: RoundReport, leaving: tuple[str, ...], returning: tuple[str, ...]
    ) -> Verdict:
        name = spell.sub_dataset
        if name in leaving or name in returning:
            word = "excluded now" if name in leaving else "taken back"
        elif name not in report.active:
            word = "excluded before"
        elif self._overfits(spell):
            word = "overfits, stays by lot"
        else:
            word = "below its peak" if spell.peak.checkpoint < spell.end.checkpoint else "still learning"
        return Verdict.of(spell, word)


def _below(score: float, point: MetricPoint) -> float:
    return round(score - point.score, _DIGITS)


def _spell_of(report: RoundReport, name: str) -> Curve:
    """Return the sub-dataset's curve over all rounds since it was last readmitted or excluded."""
    is_active = name in report.active
    newest_first = takewhile(lambda one: (name in one.active) == is_active, [report, *reversed(report.previous)])
    points: dict[CheckpointKey, MetricPoint] = {}
    for one in reversed(list(newest_first)):
        curve = next(curve for curve in one.curves if curve.sub_dataset == name)
        points.update({point.checkpoint: point for point in curve.points})
    return Curve(name, tuple(points[key] for key in sorted(points)))
