"""IES (arXiv 2502.07547): a row that is mastered leaves back-propagation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ies:
    """Instance-dependent early stopping.

    A row is mastered while the second-order difference of its loss, l_t - 2 l_(t-1) + l_(t-2) over its last passes,
    stays within ±delta on average over `window` passes (fewer where there are fewer: ours). Its loss is still
    measured, forward only, so a row that moves again is trained again.

    Attributes:
        delta: in nats (the source's default; tuned from 1e-1 to 1e-5 there).
        window: passes of the moving average.
    """

    delta: float = 1e-3
    window: int = 3

    @property
    def num_kept(self) -> int:
        """Return how many of a row's last losses the rule needs."""
        return self.window + 2

    def is_mastered(self, losses: Sequence[float]) -> bool:
        """Say whether a row with these losses, one a pass and the newest last, is to be left out."""
        recent = losses[-self.num_kept :]
        bends = [abs(c - 2 * b + a) for a, b, c in zip(recent, recent[1:], recent[2:], strict=False)]
        return bool(bends) and sum(bends) / len(bends) <= self.delta
