"""The baselines of the paper as strategies, and as row policies inside the worker."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.algorithm.curves import Curve, Verdict
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

    def word(curve: Curve) -> str:
        if curve.sub_dataset in gone:
            return "leaves now"
        if curve.sub_dataset not in report.active:
            return "not trained"
        return "peaked before the end" if curve.peak.checkpoint < report.last else "still learning"

    return tuple(Verdict.of(curve, word(curve)) for curve in report.curves)


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


_EPSILON = 1e-6  # epochs; far below an evaluation interval


@dataclass(frozen=True)
class _SingleRollout:
    """The paper's single-roll-out ablations: one roll-out finds every optimum c_i, then training restarts.

    The first roll-out takes half of the budget, so that both fit into it (ours: the paper does not count the first).
    """

    max_epochs: float

    def open(self, sub_datasets: tuple[str, ...]) -> Opening:
        """Look for the optima with half of the budget."""
        return Opening(rollout_epochs=self.max_epochs / 2)


class SroSft(_SingleRollout):
    """Retrain from the base model, and exclude i after c_i epochs."""

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


class SoftSroSft(_SingleRollout):
    """Retrain from the base model with constant shares that make each sub-dataset total its c_i epochs.

    Ours: the paper's public summaries do not spell it out.
    """

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


@dataclass(frozen=True)
class Dynamix:
    """A bandit over the sub-datasets with their shares by size as prior.

    Attributes:
        gamma: share of uniform exploration.
        alpha: weight of the past in the moving average of rewards.
        beta: sharpness of the softmax (source: 4 for 1B parameters, 5 for 8B).
        every_steps: optimizer steps between updates.
    """

    gamma: float = 0.3
    alpha: float = 0.95
    beta: float = 4.0
    every_steps: int = 50

    def shares(self, values: Mapping[str, float], prior: Mapping[str, float]) -> dict[str, float]:
        """Return the probability to draw each sub-dataset, from its value Q and its share by size."""
        soft = {name: math.exp(self.beta * values[name]) * prior[name] for name in prior}
        total = math.fsum(soft.values())
        return {name: (1 - self.gamma) * soft[name] / total + self.gamma / len(prior) for name in prior}

    def update(
        self, values: Mapping[str, float], before: Mapping[str, float], after: Mapping[str, float]
    ) -> dict[str, float]:
        """Return the updated values from the loss on a batch of each sub-dataset before and after a step on it."""
        gains = {name: (before[name] - after[name]) / max(before[name], 1e-12) for name in values}
        least, span = min(gains.values()), max(gains.values()) - min(gains.values())
        rewards = {name: (gain - least) / span if span > 0 else 0.0 for name, gain in gains.items()}
        return {name: self.alpha * values[name] + (1 - self.alpha) * rewards[name] for name in values}


@dataclass(frozen=True)
class Ies:
    """Instance-dependent early stopping.

    A row is mastered while the second-order difference of its loss, l_t - 2 l_(t-1) + l_(t-2) over its last passes,
    stays within ±delta on average over `window` passes (fewer at the start: ours). Its loss is still measured by a
    forward pass, so a row whose loss changes again is trained again.

    Attributes:
        delta: in nats (the source's default, tuned there from 1e-1 to 1e-5).
        window: passes of the moving average.
    """

    delta: float = 1e-3
    window: int = 3

    @property
    def num_kept(self) -> int:
        """Return the number of last losses that the rule needs."""
        return self.window + 2

    def is_mastered(self, losses: Sequence[float]) -> bool:
        """Return whether to skip a row with these losses, one per pass, newest last."""
        recent = losses[-self.num_kept :]
        bends = [abs(c - 2 * b + a) for a, b, c in zip(recent, recent[1:], recent[2:], strict=False)]
        return bool(bends) and sum(bends) / len(bends) <= self.delta
