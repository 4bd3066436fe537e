"""Optimizer and learning rate of a roll-out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tasks.contracts import RolloutSpec


def learning_rate_at(spec: RolloutSpec, step: int) -> float:
    """Return the learning rate of the optimizer step that follows `step` steps of the accepted path."""
    training = spec.training
    if step < training.warmup_steps:
        return training.learning_rate * (step + 1) / training.warmup_steps
    if training.schedule == "constant":
        return training.learning_rate
    progress = min(1.0, (step - training.warmup_steps) / max(1, spec.decay_steps - training.warmup_steps))
    falling = 1 - progress if training.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return training.learning_rate * (training.final_lr_ratio + (1 - training.final_lr_ratio) * falling)


def adamw(model: Any, spec: RolloutSpec) -> torch.optim.AdamW:
    """Return AdamW without weight decay on norms and biases."""
    training = spec.training
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": training.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=training.learning_rate,
        betas=training.adam_betas,
        eps=training.adam_epsilon,
        fused=True,
    )


@contextmanager
def undone(model: Any, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Restore the weights and the optimizer's state after the block; a copy of both is held meanwhile."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = [parameter.detach().clone() for parameter in parameters]
    state = {
        parameter: {kind: value.clone() for kind, value in kinds.items()}
        for parameter, kinds in optimizer.state.items()
    }
    yield
    with torch.no_grad():
        for parameter, value in zip(parameters, weights, strict=True):
            parameter.copy_(value)
    optimizer.state.clear()
    optimizer.state.update(state)
