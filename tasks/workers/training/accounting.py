"""What was trained between two checkpoints, counted over all processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tasks.algorithm.costs import RowCost
from tasks.algorithm.state import CheckpointKey
from tasks.contracts import IntervalStats
from tasks.workers.training.batches import Draw


@dataclass(frozen=True)
class Step:
    """The rows of one optimizer step, their tokens and their supervised tokens; `number` counts from 1."""

    number: int
    rows: Sequence[Draw]
    lengths: list[int]
    counts: list[int]

    def cost(self, positions: Sequence[int]) -> RowCost:
        """Return the work on the rows at these positions."""
        return RowCost.of([self.lengths[i] for i in positions], [self.counts[i] for i in positions])


class IntervalAccount:
    """Counts one interval after another; every rank counts whole steps, so the numbers are global."""

    def __init__(self, names: Sequence[str], accelerator: Any) -> None:
        self._names = list(names)
        self._accelerator = accelerator
        self.closed: list[IntervalStats] = []
        self.open()

    def open(self) -> None:
        """Begin an interval."""
        self.sums: dict[str, Any] = {
            "num_tokens": 0,
            "num_examples": 0,
            "flops": 0.0,
            "seconds": 0.0,
            "supervised": dict.fromkeys(self._names, 0),
            "loss_sums": dict.fromkeys(self._names, 0.0),
        }
        self._own_losses = torch.zeros(len(self._names), dtype=torch.float64, device=self._accelerator.device)

    def add_losses(self, owner: torch.Tensor, losses: torch.Tensor) -> None:
        """Add the losses in nats of tokens; `owner` holds the index of each one's sub-dataset."""
        self._own_losses.index_add_(0, owner.flatten(), losses.detach().flatten().double())

    def add_step(self, step: Step, flops: float, seconds: float) -> None:
        """Add one step's rows, and what it cost."""
        for draw, count in zip(step.rows, step.counts, strict=True):
            self.sums["supervised"][self._names[draw.sub_dataset]] += count
        self.sums["num_tokens"] += sum(step.lengths)
        self.sums["num_examples"] += len(step.rows)
        self.sums["flops"] += flops
        self.sums["seconds"] += seconds

    def mean_loss(self) -> float:
        """Return the interval's loss so far, as this process sees it."""
        own = float(self._own_losses.sum()) * self._accelerator.num_processes
        gathered: float = sum(self.sums["loss_sums"].values())
        return float((own + gathered) / max(1, sum(self.sums["supervised"].values())))

    def trained(self) -> dict[str, float]:
        """Return what has been trained since the roll-out's start, the open interval included."""
        names = ("num_tokens", "num_examples", "flops", "seconds")
        return {n: self.sums[n] + sum(getattr(interval, n) for interval in self.closed) for n in names}

    def gather(self) -> None:
        """Move the loss sums of all processes into the interval's plain numbers."""
        total = self._accelerator.reduce(self._own_losses, reduction="sum").tolist()
        for name, value in zip(self._names, total, strict=True):
            self.sums["loss_sums"][name] += value
        self._own_losses.zero_()

    def close(self, key: CheckpointKey, learning_rate: float, batch_hash: str) -> None:
        """End the interval at the checkpoint `key` and begin the next."""
        self.gather()
        sums, supervised = self.sums, self.sums["supervised"]
        self.closed.append(
            IntervalStats(
                key=key,
                num_tokens=sums["num_tokens"],
                num_completion_tokens=sum(supervised.values()),
                num_examples=sums["num_examples"],
                flops=sums["flops"],
                seconds=sums["seconds"],
                learning_rate=learning_rate,
                losses={name: sums["loss_sums"][name] / count for name, count in supervised.items() if count},
                batch_hash=batch_hash,
            )
        )
        self.open()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps; `gather` comes first."""
        closed = [interval.model_dump(mode="json") for interval in self.closed]
        return {"intervals": closed, "interval": self.sums}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        self.closed = [IntervalStats.model_validate(interval) for interval in state["intervals"]]
        self.sums = state["interval"]
