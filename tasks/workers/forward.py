"""Collate rows into tensors, and compute logits and losses in one forward pass.

`collate` is the batch of scoring: it turns each row's loss mask into `labels`, with IGNORED where a token has
no loss, and `token_losses` skips these.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Batch:
    """Tensors of one forward pass.

    Attributes:
        inputs: arguments of the model, of shape (rows, tokens). Packed rows lie end to end in one row; with `bounded`,
            their bounds are included under transformers' names for FlashAttention.
        positions: (k,) positions whose logits are needed: those before a label of any row.
        labels: (rows, k) token that follows each position, or IGNORED where the loss mask excludes it.
        row_of: (rows, k) index of the given row that the token belongs to.
    """

    inputs: dict[str, Any]
    positions: torch.Tensor
    labels: torch.Tensor
    row_of: torch.Tensor

    @property
    def has_label(self) -> torch.Tensor:
        """Booleans of shape (rows, k): whether the position has a loss."""
        return self.labels != IGNORED


def collate(rows: Sequence[Row], device: torch.device, *, packed: bool, bounded: bool = False) -> Batch:
    """Return the batch of `rows`; a row's first token has no loss, since nothing comes before it."""
    ids, loss_mask, row_of, inputs = _packed(rows) if packed else _padded(rows)
    labels = np.where(loss_mask, ids, IGNORED)
    positions = np.flatnonzero(loss_mask[:, 1:].any(axis=0))
    if len(positions) == 0:
        positions = np.zeros(1, dtype=np.int64)
    tensors = {key: torch.from_numpy(value).to(device) for key, value in inputs.items()}
    return Batch(
        inputs={**tensors, **(_bounds(rows, device) if packed and bounded and rows else {})},
        positions=torch.from_numpy(positions).to(device),
        labels=torch.from_numpy(labels[:, positions + 1]).to(device),
        row_of=torch.from_numpy(row_of[:, positions + 1]).to(device),
    )


Arrays = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], dict[str, npt.NDArray[Any]]]


def _padded(rows: Sequence[Row]) -> Arrays:
    width = max(2, *(len(ids) for ids, _ in rows)) if rows else 2
    shape = (max(1, len(rows)), width)
    ids, loss_mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int8)
    attention_mask = np.zeros(shape, dtype=np.int64)
    for index, (row_ids, row_loss_mask) in enumerate(rows):
        ids[index, : len(row_ids)] = row_ids
        loss_mask[index, : len(row_ids)] = row_loss_mask
        attention_mask[index, : len(row_ids)] = 1
    loss_mask[:, 0] = 0
    attention_mask[:, 0] = 1  # a rank without rows still runs one token, which has no loss
    row_of = np.repeat(np.arange(shape[0])[:, None], width, axis=1)
    inputs = {"input_ids": ids}
    return (ids, loss_mask, row_of, inputs if attention_mask.all() else inputs | {"attention_mask": attention_mask})


def _packed(rows: Sequence[Row]) -> Arrays:
    """Lay the rows end to end.

    Positions restart with each row, and there is no attention mask: next to a mask of ones, transformers builds no
    block-diagonal mask, and rows would see each other (measured: logits off by 12.7).
    """
    if not rows:
        return _padded(rows)
    loss_masks = [np.concatenate([[np.int8(0)], row_loss_mask[1:]]) for _, row_loss_mask in rows]
    ids = np.concatenate([row_ids for row_ids, _ in rows]).astype(np.int64)[None]
    positions = np.concatenate([np.arange(len(row_ids)) for row_ids, _ in rows])[None]
    row_of = np.concatenate([np.full(len(row_ids), index) for index, (row_ids, _) in enumerate(rows)])[None]
    return ids, np.concatenate(loss_masks)[None], row_of, {"input_ids": ids, "position_ids": positions}


def _bounds(rows: Sequence[Row], device: torch.device) -> dict[str, Any]:
    lengths = [len(ids) for ids, _ in rows]
    ends = torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int32)).to(device)
    longest = max(lengths)
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


class LogitsAt:
    """Computes logits at chosen positions of the rows of a batch, and at no others.

    The hidden states at the positions are taken in front of the model's output layer, inside its own forward pass: so
    what wraps the model stays in force, and so does what it does behind that layer (soft-capping, scaling). A model
    whose logits at the positions then differ from its own, such as one without an output layer of its own, computes
    them at all columns with a position in any row.

    Args:
        model: the model to call, perhaps wrapped for several processes.
        unwrapped: the model within; `model` if not given.
    """

    def __init__(self, model: Any, unwrapped: Any | None = None) -> None:
        self.model, inner = model, unwrapped if unwrapped is not None else model
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
        ids = torch.arange(12, device=weight.device).view(2, 6) % inner.config.get_text_config().vocab_size
        positions = torch.tensor([0, 4, 5, 7, 11], device=weight.device)
        with torch.no_grad():
            own = self.model(input_ids=ids, use_cache=False).logits.flatten(0, 1)[positions]
            try:
                gathered = self._gathered({"input_ids": ids}, positions).flatten(0, -2)
            except (IndexError, RuntimeError):
                gathered = None
            # Other kernels may compute a product of fewer rows; a wrong position is off by about a standard deviation.
            tolerance = torch.finfo(own.dtype).eps ** 0.5 * own.float().std()
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


def token_logits(model: Any, batch: Batch, *, at_positions: bool) -> torch.Tensor:
    """Return float32 logits of shape (rows, k, vocabulary) at the batch's positions."""
    if at_positions:
        logits = model(**batch.inputs, use_cache=False, logits_to_keep=batch.positions).logits
    else:
        logits = model(**batch.inputs, use_cache=False).logits[:, batch.positions]
    result: torch.Tensor = logits.float()
    return result


def token_losses(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the cross-entropy in nats of each label, of shape (rows, k); 0 where there is none."""
    losses = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), reduction="none", ignore_index=IGNORED)
    return losses.view(batch.labels.shape)
