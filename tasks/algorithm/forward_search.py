"""The forward search: mSFT's exclusions without a rollback (search.md, "Beyond the paper")."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.algorithm.curves import Curve, MetricPoint
from tasks.algorithm.exclusion import Verdict
from tasks.algorithm.strategy import Decision, Opening, Rehearse, RoundReport, drawn_by_lot, rehearsed

_DIGITS = 12  # as in peaks.py


@dataclass(frozen=True)
class Forward:
    """Exclude what overfits and train on; the excluded stay at a small share, so that they are not forgotten.

    Nothing is discarded. All that overfit leave in the same round, since no rollback makes one wait for another.

    Attributes:
        min_delta: score below its peak at which a sub-dataset overfits, the last `persist` times it was scored.
        persist: how often in a row.
        loss_guard: and its validation loss must be this share above its least; a noisy accuracy alone excludes
            nothing (measured: +3.5 with the guard, +2.2 without, over SFT with averaged weights).
        rehearsal: factor on the share at which excluded sub-datasets stay in the mixture.
        rehearse: which of their rows; "correct": those that the model answers as labelled when a round begins.
        readmit_drop: score below the one at its exclusion at which one comes back; None: never.
        random_seed: a control: as many leave and at the same times, but drawn by lot. None: those that overfit.
    """

    min_delta: float
    persist: int = 2
    loss_guard: float = 0.1
    rehearsal: float = 0.1
    rehearse: Rehearse = "all"
    readmit_drop: float | None = None
    random_seed: int | None = None

    def open(self, sub_datasets: tuple[str, ...]) -> Opening:
        """Begin with all of them."""
        return Opening()

    def observe(self, report: RoundReport) -> Decision:
        """Exclude all that overfit, take back what is being forgotten, and go on from the end."""
        spells = {curve.sub_dataset: _spell_of(report, curve.sub_dataset) for curve in report.curves}
        leaving = tuple(n for n in report.active if self._overfits(spells[n]))
        if self.random_seed is not None:
            leaving = drawn_by_lot(report, len(leaving), self.random_seed)
        returning = tuple(
            name
            for name, spell in spells.items()
            if name not in report.active and self._is_forgotten(report, spell)
        )
        active = (set(report.active) - set(leaving)) | set(returning)
        return Decision(
            report.last,
            self._reason(spells, leaving, returning),
            exclude=leaving,
            include=returning,
            weights=rehearsed(report, active, self.rehearsal),
            verdicts=tuple(self._verdict(spell, report, leaving, returning) for spell in spells.values()),
        )

    def _overfits(self, spell: Curve) -> bool:
        recent = spell.points[-self.persist :]
        is_below = all(_below(spell.peak.score, point) >= self.min_delta for point in recent)
        least = min(point.loss for point in spell.points)
        return is_below and self.min_delta > 0 and spell.end.loss >= (1 + self.loss_guard) * least

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
            f"{spells[name].end.score:.3f} while its loss rose"
            for name in leaving
        ]
        gone = [f"{'; '.join(parts)}: exclude, keep at {self.rehearsal:.0%} of its share"] if parts else []
        back = [f"forgotten since its exclusion, taken back: {', '.join(returning)}"] if returning else []
        none = ["no active sub-dataset overfits"] if not gone and not back else []
        return f"{'; '.join([*gone, *back, *none])}; go on from the end of the roll-out"

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
        return Verdict(name, spell.peak.checkpoint, spell.peak.score, spell.end.score, word)


def _below(score: float, point: MetricPoint) -> float:
    return round(score - point.score, _DIGITS)


def _spell_of(report: RoundReport, name: str) -> Curve:
    """Return the sub-dataset's curve since it last became active, or last was excluded; rounds joined."""
    rounds = [*report.previous, report]
    is_active = name in report.active
    start = len(rounds)
    while start > 0 and (name in rounds[start - 1].active) == is_active:
        start -= 1
    points: dict[object, MetricPoint] = {}
    for one in rounds[start:]:
        curve = next(curve for curve in one.curves if curve.sub_dataset == name)
        points.update({point.checkpoint: point for point in curve.points})
    return Curve(name, tuple(sorted(points.values(), key=lambda point: point.checkpoint)))
