"""Moving average of the weights, which is scored and exported in their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tasks.workers.training.checkpoint import Tensors, put_weights


class WeightAverage:
    """An exponential moving average over the optimizer steps of the accepted path.

    It starts as the weights themselves. Its decay grows as (1 + step) / (10 + step) up to `decay`, so that untrained
    weights fade within the first steps.
    """

    def __init__(self, model: Any, decay: float) -> None:
        self._model = model
        self._decay = decay
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._average = [parameter.detach().clone() for parameter in self._parameters]

    @property
    def values(self) -> list[torch.Tensor]:
        """Return the averaged weights, in the order of the model's trained parameters."""
        return self._average

    def restore(self, average: Tensors) -> None:
        """Continue from the average of a checkpoint; the model's weights are set after this."""
        put_weights(self._model, average)
        for held, parameter in zip(self._average, self._parameters, strict=True):
            held.copy_(parameter.detach())

    def update(self, step: int) -> None:
        """Include the weights after optimizer step number `step`, counted from 1."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._average, [p.detach() for p in self._parameters], 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the model the averaged weights for the block."""
        weights = [parameter.detach().clone() for parameter in self._parameters]
        self._put(self._average)
        try:
            yield
        finally:
            self._put(weights)

    def _put(self, values: list[torch.Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self._parameters, values, strict=True):
                parameter.copy_(value)
