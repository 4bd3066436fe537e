"""The model in training, with its optimizer and the average of its weights."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy

from tasks.algorithm.costs import ModelShape
from tasks.contracts import RolloutSpec
from tasks.workers.model import AVERAGE, WEIGHTS, check_names, load_base, shape_of, trained_names
from tasks.workers.training.attention import use_packed_attention
from tasks.workers.training.averaging import WeightAverage
from tasks.workers.training.checkpoint import OPTIMIZER, ReadFile, Tensors, gather_shards, put_moments, put_weights
from tasks.workers.training.kernels import use_few_kernels
from tasks.workers.training.masters import Masters
from tasks.workers.training.optimization import adamw
from tasks.workers.training.publishing import HostCopies


@dataclass(frozen=True)
class Learner:
    """A model as Accelerate has prepared it, and its optimizer.

    Attributes:
        model: its weights are trained, averaged and saved; in float32.
        masters: with `training.precision: bf16`, what computes in place of the model. FSDP has masters of its own.
        average: moving average of the weights, with `training.ema`.
        names: parameters that training changes.
    """

    accelerator: Any
    model: Any
    masters: Masters | None
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    names: list[str]
    shape: ModelShape

    @property
    def running(self) -> Any:
        """The model that computes."""
        return self.masters.running if self.masters is not None else self.model

    def take_over(self) -> None:
        """Let what computes have the model's weights, after these have changed."""
        if self.masters is not None:
            self.masters.take_over()

    def reshard(self) -> None:
        """Let each process hold its part of the weights again, after a pass without a backward pass (FSDP)."""
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Compute with the averaged weights in the block, if there are any."""
        if self.average is None:
            yield
            return
        with self.average.in_place():
            self.take_over()
            yield
        self.take_over()

    def update_average(self, step: int) -> None:
        """Take the weights after optimizer step number `step` into the average."""
        if self.average is not None:
            self.average.update(step)

    def tensors(self) -> Mapping[str, Tensors]:
        """Return the tensors of a checkpoint by file; every rank takes part, rank 0 has the result.

        Those that are not sharded are the ones in training, which the next step changes.
        """
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        named = list(zip(self.names, parameters, strict=True))
        state = self.optimizer.state
        files: dict[str, Tensors] = {
            WEIGHTS: dict(named),
            OPTIMIZER: {f"{name}/{kind}": v for name, p in named if p in state for kind, v in state[p].items()},
        }
        if self.average is not None:
            files[AVERAGE] = dict(zip(self.names, self.average.values, strict=True))
        return {file: gather_shards(content, self.accelerator) for file, content in files.items()}

    def restore(self, read: ReadFile | None, where: str, *, with_optimizer: bool) -> None:
        """Continue from the checkpoint of the directory `where`; every rank reads all of it.

        `read` is None where the model is at this checkpoint already.

        Raises:
            ModelError: the tensors of the checkpoint are not those of the model.
        """
        if not with_optimizer:
            self.optimizer.state.clear()
        if read is None:
            return
        weights = read(WEIGHTS)
        check_names(weights, self.names, where)
        if with_optimizer:
            put_moments(self.model, self.optimizer, read(OPTIMIZER))
        if self.average is not None:
            self.average.restore(read(AVERAGE))
        put_weights(self.model, weights)
        self.take_over()


@dataclass
class Kept:
    """What a training process keeps for its next roll-out.

    Attributes:
        copies: checkpoints in host memory, in the one process that trains alone.
        live: sha256 of the manifest of the checkpoint that the learner is at; only rank 0 knows it.
    """

    learner: Learner
    copies: HostCopies
    live: str | None = None


def load_learner(spec: RolloutSpec, accelerator: Any) -> Learner:
    """Load the base model."""
    model = load_base(spec.model)
    if spec.training.batching == "packed":
        use_packed_attention(model, spec.model, accelerator.device, spec.training.precision)
    names, shape = trained_names(model), shape_of(model)
    model.train()
    masters = None
    if spec.training.precision == "bf16":
        use_few_kernels(model)
        if accelerator.distributed_type == DistributedType.FSDP:
            policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
            accelerator.state.fsdp_plugin.mixed_precision_policy = policy
        else:
            masters = Masters(model, accelerator.device, accelerator.num_processes)
    optimizer = adamw(model, spec)
    if masters is None:
        model, wrapped = accelerator.prepare(model, optimizer)
        optimizer = wrapped.optimizer  # the wrapper searches the installed packages at every step
    average = WeightAverage(model, spec.training.ema) if spec.training.ema is not None else None
    return Learner(accelerator, model, masters, optimizer, average, names, shape)


def repeat_bits(device: torch.device) -> None:
    """Choose kernels that give the same bits each time; on a GPU, FlashAttention's backward pass is not one by itself.

    An operation that has none such goes on, with a warning in the worker's log.
    """
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False
