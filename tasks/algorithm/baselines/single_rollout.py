"""The paper's single-roll-out ablations: one roll-out finds every optimum c_i, then training restarts."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.algorithm.baselines.sft import peaks_in_words
from tasks.algorithm.strategy import Decision, Opening, RoundReport

_EPSILON = 1e-6  # epochs; far below an evaluation interval


@dataclass(frozen=True)
class SroSft:
    """Retrain from the base model, and exclude i after c_i epochs.

    The first roll-out takes half of the budget, so that both fit into it (ours: the paper does not count the first).
    """

    max_epochs: float

    def open(self, sub_datasets: tuple[str, ...]) -> Opening:
        """Look for the optima with half of the budget."""
        return Opening(rollout_epochs=self.max_epochs / 2)

    def observe(self, report: RoundReport) -> Decision:
        """Return to the base model after the first roll-out, then exclude each sub-dataset at its optimum."""
        rounds = (*report.previous, report)
        optima = optima_of(rounds[0])
        trained = sum(one.epochs_until(one.last) for one in rounds[1:])
        due = tuple(n for n in report.active if optima[n] <= trained + _EPSILON)
        left = sorted({c for c in optima.values() if c > trained + _EPSILON})
        is_first = report.round == 0
        target = min(p.checkpoint for p in report.curves[0].points) if is_first else report.last
        found = ", ".join(f"{name} {c:.2f}" for name, c in optima.items())
        reason = f"optima in epochs: {found}; back to the base model" if is_first else "advance"
        return Decision(
            target,
            f"{reason}, without {', '.join(due)}" if due else reason,
            exclude=due,
            rollout_epochs=left[0] - trained if left else None,
            stop="" if left else "each sub-dataset has had its optimum's epochs",
            verdicts=peaks_in_words(report, due),
        )


@dataclass(frozen=True)
class SoftSroSft:
    """Retrain from the base model with constant shares that make each sub-dataset total its c_i epochs.

    Ours: the paper's public summaries do not spell it out.
    """

    max_epochs: float

    def open(self, sub_datasets: tuple[str, ...]) -> Opening:
        """Look for the optima with half of the budget."""
        return Opening(rollout_epochs=self.max_epochs / 2)

    def observe(self, report: RoundReport) -> Decision:
        """Return to the base model with the shares found, and stop after the second roll-out."""
        if report.round > 0:
            stop = "each sub-dataset has had its optimum's epochs"
            return Decision(report.last, "the second roll-out is over", stop=stop)
        optima = optima_of(report)
        longest = max(optima.values())
        never = tuple(name for name, c in optima.items() if c == 0)
        found = ", ".join(f"{name} {c:.2f}" for name, c in optima.items())
        return Decision(
            min(p.checkpoint for p in report.curves[0].points),
            f"optima in epochs: {found}; back to the base model with shares in proportion",
            exclude=never,
            weights={name: c / longest for name, c in optima.items() if c > 0},
            rollout_epochs=longest,
            stop="" if longest else "no sub-dataset gained anything from training",
            verdicts=peaks_in_words(report, never),
        )


def optima_of(report: RoundReport) -> dict[str, float]:
    """Return c_i of each sub-dataset: epochs of the whole mixture until its peak.

    Counted in evaluation intervals, because their steps are rounded: a quarter of an epoch of 150 steps would be
    0.253 epochs, more than a roll-out of 0.25.
    """
    keys = sorted(point.checkpoint for point in report.curves[0].points)
    interval = report.epochs_until(report.last) / max(1, len(keys) - 1)
    return {curve.sub_dataset: keys.index(curve.peak.checkpoint) * interval for curve in report.curves}
