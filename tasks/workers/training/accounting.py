"""Counts of what is trained between two checkpoints, over all processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from tasks.algorithm.costs import RowCost
from tasks.algorithm.state import CheckpointKey
from tasks.contracts import IntervalStats
from tasks.workers.training.batches import Draw

# Checkpoints of 2026-11 and before name the labels so.
_FORMER_NAMES = {"supervised": "num_labels"}


@dataclass(frozen=True)
class Step:
    """The rows of one optimizer step.

    Attributes:
        number: from 1 on the accepted path.
        lengths: tokens of each row.
        counts: labels of each row, which are its tokens under the loss mask but the first.
    """

    number: int
    rows: Sequence[Draw]
    lengths: list[int]
    counts: list[int]

    def cost(self, positions: Sequence[int]) -> RowCost:
        """Return the work on the rows at these positions."""
        return RowCost.of([self.lengths[i] for i in positions], [self.counts[i] for i in positions])


@dataclass
class Interval:
    """Sums since the last checkpoint that is evaluated; a checkpoint on SIGTERM keeps them."""

    num_labels: dict[str, int]
    loss_sums: dict[str, float]
    num_tokens: int = 0
    num_examples: int = 0
    flops: float = 0.0
    seconds: float = 0.0


@dataclass
class IntervalAccount:
    """Sums of the open interval, and the closed intervals of the roll-out.

    Every rank counts whole steps, so all sums but those of losses are global; `gather` adds the losses of all ranks.
    """

    names: list[str]
    accelerator: Any
    closed: list[IntervalStats] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._open()

    def _open(self) -> None:
        self.interval = Interval(dict.fromkeys(self.names, 0), dict.fromkeys(self.names, 0.0))
        self._own_losses = torch.zeros(len(self.names), dtype=torch.float64, device=self.accelerator.device)

    def add_losses(self, owners: torch.Tensor, losses: torch.Tensor) -> None:
        """Add each row's summed loss in nats to its sub-dataset's, as far as this process has computed them."""
        self._own_losses.index_add_(0, owners, losses.detach().double())

    def add_step(self, step: Step, flops: float, seconds: float) -> None:
        """Add the rows of a step, its FLOPs and its duration."""
        for draw, count in zip(step.rows, step.counts, strict=True):
            self.interval.num_labels[self.names[draw.sub_dataset]] += count
        self.interval.num_tokens += sum(step.lengths)
        self.interval.num_examples += len(step.rows)
        self.interval.flops += flops
        self.interval.seconds += seconds

    def add_flops(self, flops: float) -> None:
        """Add work that is no part of a step: rows that a policy looks at."""
        self.interval.flops += flops

    def mean_loss(self) -> float:
        """Return the loss of the open interval, extrapolated from this process's share."""
        own = float(self._own_losses.sum()) * self.accelerator.num_processes
        gathered = sum(self.interval.loss_sums.values())
        return float((own + gathered) / max(1, sum(self.interval.num_labels.values())))

    def tokens_per_s(self) -> float:
        """Return the speed in the open interval."""
        return self.interval.num_tokens / max(self.interval.seconds, 1e-9)

    def trained(self) -> dict[str, float]:
        """Return the sums since the start of the roll-out, with the open interval."""
        names = ("num_tokens", "num_examples", "flops", "seconds")
        return {
            name: getattr(self.interval, name) + sum(getattr(interval, name) for interval in self.closed)
            for name in names
        }

    def gather(self) -> None:
        """Add the losses of all processes to the interval."""
        total = self.accelerator.reduce(self._own_losses, reduction="sum").tolist()
        for name, value in zip(self.names, total, strict=True):
            self.interval.loss_sums[name] += value
        self._own_losses.zero_()

    def close(self, key: CheckpointKey, learning_rate: float, batch_hash: str, seconds: float) -> None:
        """Close the interval at the checkpoint `key`, with the duration on record, and open the next."""
        self.gather()
        interval = self.interval
        self.closed.append(
            IntervalStats(
                key=key,
                num_tokens=interval.num_tokens,
                num_completion_tokens=sum(interval.num_labels.values()),
                num_examples=interval.num_examples,
                flops=interval.flops,
                seconds=seconds,
                learning_rate=learning_rate,
                losses={name: interval.loss_sums[name] / count for name, count in interval.num_labels.items() if count},
                batch_hash=batch_hash,
            )
        )
        self._open()

    def state(self) -> dict[str, Any]:
        """Return the entries of a checkpoint, after `gather`."""
        closed = [interval.model_dump(mode="json") for interval in self.closed]
        return {"intervals": closed, "interval": asdict(self.interval)}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from the entries of a checkpoint."""
        self.closed = [IntervalStats.model_validate(interval) for interval in state["intervals"]]
        sums = {_FORMER_NAMES.get(name, name): value for name, value in state["interval"].items()}
        self.interval = Interval(**sums)
