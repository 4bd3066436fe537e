"""IES (arXiv 2502.07547): skip the backward pass for mastered rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
