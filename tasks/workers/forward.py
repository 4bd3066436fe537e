"""Compute logits and losses at chosen positions, in one forward pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

# A row's token ids and its loss mask: 1 where a token is learned.
Row = tuple[npt.NDArray[np.int32], npt.NDArray[np.int8]]
# The label of a token without loss; torch's cross-entropy ignores it by default.
IGNORED = -100
# Logits of one matrix product in training: 256 MiB in float32.
LOGITS_AT_ONCE = 1 << 26


class LogitsAt:
    """Computes logits at chosen positions of the rows of a batch, and at no others.

    The hidden states at the positions are taken in front of the model's output layer, inside its own forward pass: so
    what wraps the model stays in force, and so does what it does behind that layer (soft-capping, scaling). A model
    whose logits at the positions then differ from its own, such as one without an output layer of its own, computes
    them at all columns with a position in any row.

    Args:
        model: the model to call, perhaps wrapped for several processes.
        unwrapped: the model within; `model` if not given.

    Attributes:
        tolerance: largest difference that rounding makes, in standard deviations. Other kernels may compute a product
            of fewer rows; a wrong position is off by about one.
    """

    def __init__(self, model: Any, unwrapped: Any | None = None) -> None:
        self.model, inner = model, unwrapped if unwrapped is not None else model
        weight = next(inner.parameters())
        lowers = torch.is_autocast_enabled(weight.device.type)
        dtype = torch.get_autocast_dtype(weight.device.type) if lowers else weight.dtype
        self.tolerance: float = torch.finfo(dtype).eps ** 0.5
        self._keeps_columns = supports_logit_positions(inner)
        self._head = inner.get_output_embeddings()
        # Nothing follows the output layer, and it has no dropout: losses may be computed within it.
        self._ends_in_head = isinstance(self._head, torch.nn.Linear)
        if self._head is not None:
            was_training = model.training
            model.eval()
            try:
                self._check(inner)
            finally:
                model.train(was_training)

    def __call__(self, inputs: Mapping[str, Any], positions: torch.Tensor) -> torch.Tensor:
        """Return float32 logits (k, vocabulary) at `positions` (k,), counted through all rows one after another."""
        if self._head is not None:
            return self._gathered(inputs, positions).flatten(0, -2).float()
        width = inputs["input_ids"].shape[1]
        columns, column_of = torch.unique(positions % width, return_inverse=True)
        if self._keeps_columns:
            logits = self.model(**inputs, use_cache=False, logits_to_keep=columns).logits
        else:
            logits = self.model(**inputs, use_cache=False).logits[:, columns]
        result: torch.Tensor = logits[positions // width, column_of].float()
        return result

    def losses(
        self, inputs: Mapping[str, Any], positions: torch.Tensor, labels: torch.Tensor, at_once: int = LOGITS_AT_ONCE
    ) -> torch.Tensor:
        """Return the float32 cross-entropy in nats (k,) of each position's label; 0 where it is IGNORED.

        Where there are more than `at_once` logits, they are computed in parts, and again in the backward pass: with a
        vocabulary of 151,000 they would need more memory than the rest of the step.
        """
        if not self._ends_in_head or len(positions) * self._head.weight.shape[0] <= at_once:
            return cross_entropy(self(inputs, positions), labels)
        project, size = self._head.forward, max(1, at_once // self._head.weight.shape[0])

        def losses_of(hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return cross_entropy(project(hidden).float(), labels)

        def in_parts(hidden: torch.Tensor) -> torch.Tensor:
            parts = zip(hidden[0].split(size), labels.split(size), strict=True)
            options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
            return torch.cat([checkpoint(losses_of, *part, **options) for part in parts])[None]

        return self._with_head(in_parts, inputs, positions).flatten().float()

    def _with_head(
        self, forward: Callable[[torch.Tensor], torch.Tensor], inputs: Mapping[str, Any], positions: torch.Tensor
    ) -> torch.Tensor:
        """Return the model's output with another function in the place of its output layer's."""
        self._head.forward = forward
        try:
            return self._gathered(inputs, positions)
        finally:
            del self._head.forward

    def _gathered(self, inputs: Mapping[str, Any], positions: torch.Tensor) -> torch.Tensor:
        def gather(_head: Any, hidden: tuple[torch.Tensor, ...]) -> torch.Tensor:
            return hidden[0].flatten(0, -2).index_select(0, positions)[None]

        with self._head.register_forward_pre_hook(gather):
            logits: torch.Tensor = self.model(**inputs, use_cache=False).logits
        return logits

    def _check(self, inner: Any) -> None:
        """Find out on two short rows what the output layer can be relied on for."""
        weight = next(inner.parameters())
        ids = torch.arange(12, device=weight.device).view(2, 6) % inner.get_input_embeddings().weight.shape[0]
        positions = torch.tensor([0, 4, 5, 7, 11], device=weight.device)
        with torch.no_grad():
            own = self.model(input_ids=ids, use_cache=False).logits.flatten(0, 1)[positions]
            try:
                gathered = self._gathered({"input_ids": ids}, positions).flatten(0, -2)
            except (IndexError, RuntimeError):
                gathered = None
            tolerance = self.tolerance * own.float().std()
            if gathered is None or own.shape != gathered.shape or bool((own - gathered).abs().max() > tolerance):
                self._head, self._ends_in_head = None, False
            if self._ends_in_head:
                given = torch.arange(1, 6, device=own.device, dtype=own.dtype)[None]
                got = self._with_head(lambda hidden: given, {"input_ids": ids}, positions)
                self._ends_in_head = torch.equal(got.float(), given.float())


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy in nats of each label, of shape (k,); 0 where it is IGNORED."""
    return F.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORED)


def supports_logit_positions(model: Any) -> bool:
    """Return whether the model can compute logits at chosen positions only, as most models of transformers can."""
    get_base = getattr(model, "get_base_model", None)
    return "logits_to_keep" in inspect.signature((get_base() if get_base else model).forward).parameters
