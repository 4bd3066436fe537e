"""Collate rows into tensors, and compute logits and losses in one forward pass.

This is where the loss is masked: `collate` turns each row's loss mask into `labels`, with IGNORED where a token has
no loss, and `token_losses` skips these.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

# A row's token ids and its loss mask: 1 where a token is learned.
Row = tuple[npt.NDArray[np.int32], npt.NDArray[np.int8]]
# The label of a token without loss; torch's cross-entropy ignores it by default.
IGNORED = -100


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
        if self._head is not None and not self._agrees(inner):
            self._head = None

    def __call__(self, inputs: Mapping[str, Any], positions: torch.Tensor) -> torch.Tensor:
        """Return float32 logits (k, vocabulary) at `positions` (k,), counted through all rows one after another."""
        if self._head is not None:
            return self._gathered(inputs, positions).float()
        width = inputs["input_ids"].shape[1]
        columns, column_of = torch.unique(positions % width, return_inverse=True)
        if self._keeps_columns:
            logits = self.model(**inputs, use_cache=False, logits_to_keep=columns).logits
        else:
            logits = self.model(**inputs, use_cache=False).logits[:, columns]
        result: torch.Tensor = logits[positions // width, column_of].float()
        return result

    def _gathered(self, inputs: Mapping[str, Any], positions: torch.Tensor) -> torch.Tensor:
        def gather(_head: Any, hidden: tuple[torch.Tensor, ...]) -> torch.Tensor:
            return hidden[0].flatten(0, -2).index_select(0, positions)[None]

        with self._head.register_forward_pre_hook(gather):
            logits: torch.Tensor = self.model(**inputs, use_cache=False).logits
        return logits.flatten(0, -2)

    def _agrees(self, inner: Any) -> bool:
        """Return whether logits of two short rows, gathered in front of the output layer, are the model's own."""
        weight = next(inner.parameters())
        was_training = self.model.training
        self.model.eval()
        ids = torch.arange(12, device=weight.device).view(2, 6) % inner.config.get_text_config().vocab_size
        positions = torch.tensor([0, 4, 5, 7, 11], device=weight.device)
        with torch.no_grad():
            own = self.model(input_ids=ids, use_cache=False).logits.flatten(0, 1)[positions].float()
            try:
                gathered = self._gathered({"input_ids": ids}, positions).float()
            except (IndexError, RuntimeError):
                return False
            finally:
                self.model.train(was_training)
        lowers = torch.is_autocast_enabled(weight.device.type)
        dtype = torch.get_autocast_dtype(weight.device.type) if lowers else weight.dtype
        # Other kernels may compute a product of fewer rows; a wrong position is off by about a standard deviation.
        return own.shape == gathered.shape and bool(
            (own - gathered).abs().max() <= torch.finfo(dtype).eps ** 0.5 * own.std()
        )


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
