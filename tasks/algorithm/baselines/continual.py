"""Continual SFT: one sub-dataset after another."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.algorithm.baselines.sft import peaks_in_words
from tasks.algorithm.strategy import Decision, Opening, RoundReport


@dataclass(frozen=True)
class ContinualSft:
    """Train on each sub-dataset alone, in the mixture's order, each from the best checkpoint of the one before.

    Each trains for `max_epochs` of its own rows, so that all together cost the common budget.
    """

    max_epochs: float

    def open(self, sub_datasets: tuple[str, ...]) -> Opening:
        """Start with the first sub-dataset."""
        return Opening(active=sub_datasets[:1], rollout_epochs=self.max_epochs)

    def observe(self, report: RoundReport) -> Decision:
        """Continue with the next sub-dataset from this one's peak."""
        (name,) = report.active
        names = [curve.sub_dataset for curve in report.curves]
        following = names[names.index(name) + 1 :][:1]
        peak = report.curves[names.index(name)].peak
        when = f"{name} was best {report.epochs_until(peak.checkpoint):.2f} epochs in, at {peak.score:.3f}"
        return Decision(
            peak.checkpoint,
            f"{when}: go on from there with {following[0]}" if following else f"{when}, and was the last",
            exclude=(name,),
            include=tuple(following),
            rollout_epochs=self.max_epochs,
            stop="" if following else "each sub-dataset has had its turn",
            verdicts=peaks_in_words(report, (name,)),
        )
