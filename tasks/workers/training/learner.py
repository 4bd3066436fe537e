"""The model in training, with its optimizer and the average of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.algorithm.costs import ModelShape
from tasks.contracts import RolloutSpec
from tasks.workers.model import AVERAGE, WEIGHTS, load_base, load_weights, shape_of, trained_names
from tasks.workers.training.attention import use_packed_attention
from tasks.workers.training.averaging import WeightAverage
from tasks.workers.training.checkpoint import OPTIMIZER, Tensors, gather_moments, gather_weights, load_optimizer
from tasks.workers.training.optimization import adamw


@dataclass(frozen=True)
class Learner:
    """A model and its optimizer as Accelerate has prepared them.

    Attributes:
        average: moving average of the weights, with `training.ema`.
        names: parameters that training changes.
    """

    model: Any
    optimizer: Any
    average: WeightAverage | None
    names: list[str]
    shape: ModelShape

    def update_average(self, step: int) -> None:
        """Take the weights after optimizer step number `step` into the average."""
        if self.average is not None:
            self.average.update(step)

    def gather(self) -> dict[str, Tensors]:
        """Return the tensors of a checkpoint by file; every rank takes part, rank 0 has the result."""
        tensors = {
            WEIGHTS: gather_weights(self.model, self.names),
            OPTIMIZER: gather_moments(self.model, self.optimizer.optimizer),
        }
        if self.average is not None:
            with self.average.in_place():
                tensors[AVERAGE] = gather_weights(self.model, self.names)
        return tensors


def load_learner(spec: RolloutSpec, accelerator: Any, resumed_from: Path | None) -> Learner:
    """Load the checkpoint `resumed_from` of this roll-out, else the one it starts from, else the base model."""
    start = resumed_from or (Path(spec.start_directory) if spec.start_directory is not None else None)
    model = load_base(spec.model)
    if start is not None:
        load_weights(model, start)
    if spec.training.batching == "packed":
        use_packed_attention(model, spec.model, accelerator.device, spec.training.precision)
    names, shape = trained_names(model), shape_of(model)
    model.train()
    model, optimizer = accelerator.prepare(model, adamw(model, spec))
    if start is not None and (resumed_from is not None or spec.optimizer == "restore"):
        load_optimizer(model, optimizer.optimizer, start)
    average = WeightAverage(model, spec.training.ema) if spec.training.ema is not None else None
    if average is not None and start is not None:
        average.restore(start)
    return Learner(model, optimizer, average, names, shape)
