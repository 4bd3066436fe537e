"""One optimizer step on given rows: forward, backward and the update, over all processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from tasks.algorithm.costs import RowCost
from tasks.contracts import RolloutSpec
from tasks.errors import NonFiniteLossError
from tasks.workers.forward import Batch, collate, supports_logit_positions, token_logits, token_losses
from tasks.workers.training.accounting import Step
from tasks.workers.training.attention import attends_within_rows
from tasks.workers.training.batches import Draw, RowStore, micro_batches
from tasks.workers.training.optimization import learning_rate_at, undone


@contextmanager
def without_dropout(model: Any) -> Iterator[None]:
    """Put the model into evaluation mode for the block."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class Stepper:
    """Takes steps of a prepared model and optimizer; each process computes its share of the rows.

    `losses` holds one sum in nats for each row of the step; each process fills in its own rows.
    """

    def __init__(self, spec: RolloutSpec, accelerator: Any, model: Any, optimizer: Any) -> None:
        self.spec = spec
        self.accelerator = accelerator
        self.model = model
        self.optimizer = optimizer
        self.stores = [RowStore(part.train) for part in spec.mixture.draws]
        self.keeps_logits = supports_logit_positions(accelerator.unwrap_model(model))
        self.bounds_rows = attends_within_rows(accelerator.unwrap_model(model))

    def measure(self, rows: Sequence[Draw], number: int) -> Step:
        """Return the rows of optimizer step `number`, from 1 on the accepted path, with their sizes."""
        lengths = [self.stores[draw.sub_dataset].length(draw.row) for draw in rows]
        loss_masks = [self.stores[draw.sub_dataset].row(draw.row)[1] for draw in rows]
        return Step(number, rows, lengths, [int(loss_mask[1:].sum()) for loss_mask in loss_masks])

    def take(self, step: Step, trained: Sequence[int], left_out: Sequence[int]) -> torch.Tensor:
        """Take an optimizer step on the rows at `trained`, after measuring those at `left_out`; return the losses."""
        losses = self.no_losses(step)
        if left_out:
            self.watch(step, left_out, losses)
        if trained:
            self.descend(step, trained, losses)
        return losses

    def no_losses(self, step: Step) -> torch.Tensor:
        """Return zeros for `losses`."""
        return torch.zeros(len(step.rows), dtype=torch.float64, device=self.accelerator.device)

    def descend(self, step: Step, positions: Sequence[int], losses: torch.Tensor) -> None:
        """Take an optimizer step on the rows at `positions`.

        The loss is the mean over their labels.

        Raises:
            NonFiniteLossError: the gradient is not finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.spec, step.number - 1)
        num_labels = sum(step.counts[i] for i in positions)
        *others, last = self._parts(step, positions)
        for part in others:
            with self.accelerator.no_sync(self.model):
                self._backward(step, part, num_labels, losses)
        self._backward(step, last, num_labels, losses)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.spec.training.max_grad_norm)
        # A process may hold only its part of a sharded model's norm, and all processes must reach the same verdict.
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if not math.isfinite(float(norm)):
            names = sorted({self.spec.mixture.draws[draw.sub_dataset].name for draw in step.rows})
            raise NonFiniteLossError(step.number, float(norm), names)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _parts(self, step: Step, positions: Sequence[int]) -> list[list[int]]:
        """Return this rank's share of the rows at `positions` in micro-batches; without a size, in one."""
        training = self.spec.training
        return micro_batches(
            positions,
            [step.lengths[i] for i in positions],
            training.micro_batch_size or -(-training.batch_size // self.accelerator.num_processes),
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            by_length=training.batching != "padded",
        )

    def _backward(self, step: Step, part: Sequence[int], num_labels: int, losses: torch.Tensor) -> None:
        total = self._forward(step, part, losses)
        # Processes average their gradients, so each scales its sum by their number.
        self.accelerator.backward(total * self.accelerator.num_processes / num_labels)

    def watch(self, step: Step, positions: Sequence[int], losses: torch.Tensor) -> None:
        """Measure the losses of the rows at `positions`."""
        with torch.no_grad():
            for part in self._parts(step, positions):
                self._forward(step, part, losses)

    def answered(self, step: Step) -> list[bool]:
        """Return for each row of the step whether the model's most likely tokens are the row's labels."""
        wrong = self.no_losses(step)
        with torch.no_grad(), without_dropout(self.model):
            for part in self._parts(step, range(len(step.rows))):
                batch, logits = self._logits(step, part)
                if part:
                    missed = (logits.argmax(dim=-1) != batch.labels) & batch.has_label
                    position = torch.tensor(part, device=missed.device)[batch.row_of]
                    wrong.index_add_(0, position.flatten(), missed.flatten().double())
        return [count == 0 for count in self.accelerator.reduce(wrong, reduction="sum").tolist()]

    def _logits(self, step: Step, part: Sequence[int]) -> tuple[Batch, torch.Tensor]:
        rows = [self.stores[step.rows[i].sub_dataset].row(step.rows[i].row) for i in part]
        packed = self.spec.training.batching == "packed"
        batch = collate(rows, self.accelerator.device, packed=packed, bounded=self.bounds_rows)
        with self.accelerator.autocast():
            return batch, token_logits(self.model, batch, at_positions=self.keeps_logits)

    def _forward(self, step: Step, part: Sequence[int], losses: torch.Tensor) -> torch.Tensor:
        """Return the summed loss of some rows, and add each row's loss to `losses`."""
        batch, logits = self._logits(step, part)
        each = token_losses(logits, batch)
        if part:
            position = torch.tensor(part, device=each.device)[batch.row_of]
            losses.index_add_(0, position.flatten(), each.detach().flatten().double())
        return each.sum()

    def look_ahead(self, rows: Sequence[Draw], number: int) -> tuple[float, float, RowCost]:
        """Take a step on `rows` and undo it; return their mean loss a token before and after, and the work."""
        step, everything = self.measure(rows, number), list(range(len(rows)))
        before, after = self.no_losses(step), self.no_losses(step)
        with undone(self.model, self.optimizer.optimizer):
            self.descend(step, everything, before)
            self.watch(step, everything, after)
        work = step.cost(everything)
        sums = self.accelerator.reduce(torch.stack([before, after]), reduction="sum").sum(dim=1).tolist()
        return sums[0] / max(1, work.num_head_positions), sums[1] / max(1, work.num_head_positions), work
