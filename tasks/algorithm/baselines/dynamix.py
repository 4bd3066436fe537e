"""DynamixSFT (arXiv 2508.12116): shares follow the loss gained by a step on each sub-dataset."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


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
