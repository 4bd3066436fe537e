"""One optimizer step on given rows: forward, backward and the update, over all processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from tasks.algorithm.costs import RowCost
from tasks.contracts import RolloutSpec
from tasks.data.hidden_cache import TRAIN
from tasks.errors import NonFiniteLossError
from tasks.workers.cut import HIDDEN_STATES, States, placed_states
from tasks.workers.forward import IGNORED, LogitsAt, Row
from tasks.workers.states import open_states
from tasks.workers.training.accounting import Step
from tasks.workers.training.attention import attends_within_rows
from tasks.workers.training.batches import MAX_TOKENS, Draw, PassLimit, micro_batches, row_store
from tasks.workers.training.layout import Array, Pass, lay_out
from tasks.workers.training.learner import Learner
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

    A step copies to the device once and reads nothing from it: its losses stay there, and so does the norm of its
    gradient until `check`. `losses` holds one sum in nats for each row of the step; each process fills in its own rows.
    """

    def __init__(self, spec: RolloutSpec, accelerator: Any, learner: Learner) -> None:
        self.spec = spec
        self.accelerator = accelerator
        self.learner, self.model, self.optimizer = learner, learner.running, learner.optimizer
        self.stores = [row_store(part.train) for part in spec.mixture.draws]
        self._states = [open_states(spec.hidden_states, part.train, TRAIN) for part in spec.mixture.draws]
        self.from_cache = all(store is not None for store in self._states)
        self.logits_at = LogitsAt(self.model, accelerator.unwrap_model(self.model))
        self.bounds_rows = attends_within_rows(accelerator.unwrap_model(self.model))
        learner.reshard()
        self._unchecked: list[tuple[Step, torch.Tensor]] = []
        self.limit = PassLimit(spec.training.micro_batch_size, MAX_TOKENS, spec.training.batching == "packed")

    def measure(self, rows: Sequence[Draw], number: int) -> Step:
        """Return the rows of optimizer step `number`, from 1 on the accepted path, with their sizes."""
        lengths = [self.stores[draw.sub_dataset].length(draw.row) for draw in rows]
        loss_masks = [self.stores[draw.sub_dataset].row(draw.row)[1] for draw in rows]
        return Step(number, rows, lengths, [int(loss_mask[1:].sum()) for loss_mask in loss_masks])

    def training_flops(self, work: RowCost) -> float:
        """Return the FLOPs of training on rows."""
        return work.training_flops(self.learner.shape, from_cache=self.from_cache)

    def forward_flops(self, work: RowCost) -> float:
        """Return the FLOPs of a forward pass over rows."""
        return work.forward_flops(self.learner.shape.above if self.from_cache else self.learner.shape)

    def take(self, step: Step, trained: Sequence[int], left_out: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Take an optimizer step on the rows at `trained`, after measuring those at `left_out`.

        Returns:
            The loss of each row, and the number of its sub-dataset.
        """
        (watched, learned), owners = self._to_device(step, left_out, trained)
        losses = self.no_losses(step)
        self.watch(watched, losses)
        if trained:
            self.descend(step, learned, sum(step.counts[i] for i in trained), losses)
        return losses, owners

    def no_losses(self, step: Step) -> torch.Tensor:
        """Return zeros for `losses`."""
        return torch.zeros(len(step.rows), dtype=torch.float64, device=self.accelerator.device)

    def descend(self, step: Step, passes: Sequence[Pass], num_labels: int, losses: torch.Tensor) -> None:
        """Take an optimizer step on the rows of `passes`; the loss is the mean over their labels.

        A gradient that is not finite changes nothing, and `check` tells of it.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.spec, step.number - 1)
        *others, last = passes
        for part in others:
            with self.accelerator.no_sync(self.model):
                self._backward(part, num_labels, losses)
        self._backward(last, num_labels, losses)
        if self.learner.masters is not None:
            self.learner.masters.average_gradients()
        parameters = [parameter for parameter in self.learner.model.parameters() if parameter.grad is not None]
        norm = get_total_norm([parameter.grad for parameter in parameters])
        # A process may hold only its part of a sharded model's norm, and all processes must reach the same verdict.
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        clip_grads_with_norm_(parameters, self.spec.training.max_grad_norm, norm)
        self._unchecked.append((step, norm))
        self.optimizer.found_inf = (~norm.isfinite()).float()  # fused AdamW then leaves everything as it is
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.learner.take_over()

    def check(self) -> None:
        """Read the norms of all gradients since the last call.

        Raises:
            NonFiniteLossError: one of them is not finite; the first is named.
        """
        unchecked, self._unchecked = self._unchecked, []
        norms = torch.stack([norm for _, norm in unchecked]).tolist() if unchecked else []
        for (step, _), norm in zip(unchecked, norms, strict=True):
            if not math.isfinite(norm):
                names = sorted({self.spec.mixture.draws[draw.sub_dataset].name for draw in step.rows})
                raise NonFiniteLossError(step.number, norm, names)

    def _to_device(self, step: Step, *positions: Sequence[int]) -> tuple[list[list[Pass]], torch.Tensor]:
        """Return the passes over the rows at each of `positions`, and the sub-dataset of each row of the step."""
        parts = [self._parts(step, of_pass) if of_pass else [] for of_pass in positions]
        groups = [
            [(i, self.stores[step.rows[i].sub_dataset].row(step.rows[i].row)) for i in part]
            for of_pass in parts
            for part in of_pass
        ]
        owners = np.array([draw.sub_dataset for draw in step.rows], dtype=np.int64)
        passes, moved = self.lay_out(groups, owners)
        if self.from_cache:
            for one, group in zip(passes, (part for of_pass in parts for part in of_pass), strict=True):
                self._add_states(one, [step.rows[i] for i in group])
        remaining = iter(passes)
        return [[next(remaining) for _ in of_pass] for of_pass in parts], moved

    def _add_states(self, one: Pass, rows: Sequence[Draw]) -> None:
        """Give a pass over `rows` the outputs of the frozen layers."""
        shape = one.inputs["input_ids"].shape
        lengths = [self.stores[draw.sub_dataset].length(draw.row) for draw in rows]
        starts = np.cumsum([0, *lengths[:-1]]) if self.limit.packed else np.arange(len(rows)) * shape[1]
        found = [(int(at), self._states_of(draw)) for at, draw in zip(starts, rows, strict=False)]
        found = found or [(0, self._states_of(Draw(0, 0))[:0])]  # a process without rows still runs two tokens
        one.inputs[HIDDEN_STATES] = placed_states(found, (shape[0], shape[1]), self.accelerator.device)

    def _states_of(self, draw: Draw) -> States:
        store = self._states[draw.sub_dataset]
        assert store is not None
        return store.of(draw.row)

    def lay_out(self, groups: Sequence[Sequence[tuple[int, Row]]], also: Array) -> tuple[list[Pass], torch.Tensor]:
        """Return `lay_out` for this device and batching."""
        return lay_out(groups, also, self.accelerator.device, packed=self.limit.packed, bounded=self.bounds_rows)

    def _parts(self, step: Step, positions: Sequence[int]) -> list[list[int]]:
        """Return this rank's share of the rows at `positions` in micro-batches."""
        return micro_batches(
            positions,
            [step.lengths[i] for i in positions],
            self.limit,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            by_length=self.spec.training.batching != "padded",
        )

    def _backward(self, part: Pass, num_labels: int, losses: torch.Tensor) -> None:
        total = self._forward(part, losses)
        # Processes average their gradients, so each scales its sum by their number.
        self.accelerator.backward(total * self.accelerator.num_processes / num_labels)
        if self.learner.masters is not None:
            self.learner.masters.add_gradients()

    def watch(self, passes: Sequence[Pass], losses: torch.Tensor) -> None:
        """Measure the losses of the rows of `passes`."""
        with torch.no_grad():
            for part in passes:
                self._forward(part, losses)
        self.learner.reshard()

    def _forward(self, part: Pass, losses: torch.Tensor) -> torch.Tensor:
        """Return the summed loss of some rows, and add each row's loss to `losses`."""
        each = self.logits_at.losses(part.inputs, part.positions, part.labels)
        losses.index_add_(0, part.row_of, each.detach().double())
        return each.sum()

    def answered(self, step: Step) -> list[bool]:
        """Return for each row of the step whether the model's most likely tokens are the row's labels."""
        (passes,), _ = self._to_device(step, range(len(step.rows)))
        wrong = self.no_losses(step)
        with torch.no_grad(), without_dropout(self.model):
            for part in passes:
                likeliest = self.logits_at(part.inputs, part.positions).argmax(dim=-1)
                missed = (likeliest != part.labels) & (part.labels != IGNORED)
                wrong.index_add_(0, part.row_of, missed.double())
        self.learner.reshard()
        return [count == 0 for count in self.accelerator.reduce(wrong, reduction="sum").tolist()]

    def look_ahead(self, rows: Sequence[Draw], number: int) -> tuple[float, float, RowCost]:
        """Take a step on `rows` and undo it; return their mean loss a token before and after, and the work."""
        step, everything = self.measure(rows, number), list(range(len(rows)))
        (passes,), _ = self._to_device(step, everything)
        before, after = self.no_losses(step), self.no_losses(step)
        with undone(self.learner.model, self.optimizer):
            self.descend(step, passes, sum(step.counts), before)
            self.watch(passes, after)
        self.learner.take_over()
        self.check()
        work = step.cost(everything)
        sums = self.accelerator.reduce(torch.stack([before, after]), reduction="sum").sum(dim=1).tolist()
        return sums[0] / max(1, work.num_head_positions), sums[1] / max(1, work.num_head_positions), work
