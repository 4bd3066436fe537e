"""Weights in bf16 that compute, beside the float32 weights that training changes."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch


class Masters:
    """The float32 weights of a model, and `running`, its copy in bf16, which alone computes.

    Small updates vanish in bf16: so the optimizer, the average and checkpoints have the model's weights, and the copy
    takes them over after each step. The two share frozen weights, in bf16; buffers, such as the frequencies of rotary
    embeddings, stay in float32.
    """

    def __init__(self, model: Any, device: torch.device, num_processes: int) -> None:
        self.running = deepcopy(model)
        for parameter in self.running.parameters():
            parameter.data = parameter.data.bfloat16()
        self.running.to(device)
        self._num_processes = num_processes
        self._masters: list[torch.nn.Parameter] = []
        self._weights: list[torch.nn.Parameter] = []
        for master, weight in zip(model.parameters(), self.running.parameters(), strict=True):
            if master.requires_grad:
                self._masters.append(master)
                self._weights.append(weight)
            else:
                master.data = weight.data
        model.to(device)
        sizes = [master.numel() for master in self._masters]
        self._sum = torch.zeros(sum(sizes), device=device)
        parts = zip(self._sum.split(sizes), self._masters, strict=True)
        self._gradients = [part.view(master.shape) for part, master in parts]

    def add_gradients(self) -> None:
        """Add the gradients of one backward pass to the masters', in float32."""
        pairs = zip(self._weights, self._masters, self._gradients, strict=True)
        computed = [(weight, master, gradient) for weight, master, gradient in pairs if weight.grad is not None]
        new = [(gradient, weight.grad) for weight, master, gradient in computed if master.grad is None]
        more = [(gradient, weight.grad) for weight, master, gradient in computed if master.grad is not None]
        for add, given in ((torch._foreach_copy_, new), (torch._foreach_add_, more)):
            if given:
                add([gradient for gradient, _ in given], [gradient for _, gradient in given])
        for weight, master, gradient in computed:
            weight.grad, master.grad = None, gradient

    def average_gradients(self) -> None:
        """Average the gradients over the processes."""
        if self._num_processes > 1:
            torch.distributed.all_reduce(self._sum)
            self._sum /= self._num_processes

    def take_over(self) -> None:
        """Give the running copy the weights of the masters."""
        with torch.no_grad():
            torch._foreach_copy_(self._weights, self._masters)
