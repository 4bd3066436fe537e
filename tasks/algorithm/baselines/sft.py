"""SFT, the control: one roll-out on the whole mixture. Also verdicts for all baselines."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.algorithm.exclusion import Verdict
from tasks.algorithm.strategy import Decision, Opening, RoundReport


@dataclass(frozen=True)
class Sft:
    """Homogeneous epochs of the whole mixture; the champion is its best checkpoint by mean validation."""

    max_epochs: float

    def open(self, sub_datasets: tuple[str, ...]) -> Opening:
        """Start a roll-out with the whole budget."""
        return Opening(rollout_epochs=self.max_epochs)

    def observe(self, report: RoundReport) -> Decision:
        """Stop after the only roll-out."""
        return Decision(
            report.last,
            "one roll-out on the whole mixture is all of this method",
            stop="the one roll-out is over",
            verdicts=peaks_in_words(report),
        )


def peaks_in_words(report: RoundReport, gone: tuple[str, ...] = ()) -> tuple[Verdict, ...]:
    """Return a verdict on each curve from the place of its peak alone."""
    verdicts = []
    for curve in report.curves:
        if curve.sub_dataset in gone:
            word = "leaves now"
        elif curve.sub_dataset not in report.active:
            word = "not trained"
        else:
            word = "peaked before the end" if curve.peak.checkpoint < report.last else "still learning"
        verdicts.append(Verdict(curve.sub_dataset, curve.peak.checkpoint, curve.peak.score, curve.end.score, word))
    return tuple(verdicts)
