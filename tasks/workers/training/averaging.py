"""Moving average of the weights, which is scored and exported in their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

from tasks.workers.model import AVERAGE, WEIGHTS

# Each rank has the full tensors and loads its part of them; frozen weights are missing.
_FULL = StateDictOptions(full_state_dict=True, strict=False)


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

    def restore(self, directory: Path) -> None:
        """Continue from the average of a checkpoint."""
        set_model_state_dict(self._model, dict(load_file(directory / AVERAGE)), options=_FULL)
        self._average = [parameter.detach().clone() for parameter in self._parameters]
        set_model_state_dict(self._model, dict(load_file(directory / WEIGHTS)), options=_FULL)

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
