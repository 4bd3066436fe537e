"""Rows to tensors, and one forward pass to the losses of their supervised tokens."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

Row = tuple[npt.NDArray[np.int32], npt.NDArray[np.int8]]


@dataclass(frozen=True)
class Batch:
    """Tensors of one forward pass.

    Attributes:
        inputs: what the model is called with. Shapes (rows, tokens); packed rows lie end to end in one row, and
            where they are `bounded`, their bounds come with them under transformers' names of FlashAttention's.
        positions: (k,) positions whose logits are needed: those before a supervised token, of any row.
        targets: (rows, k) token that follows each position.
        is_supervised: (rows, k) whether that token counts.
        row_of: (rows, k) which of the given rows it belongs to.
    """

    inputs: dict[str, Any]
    positions: torch.Tensor
    targets: torch.Tensor
    is_supervised: torch.Tensor
    row_of: torch.Tensor


def collate(rows: Sequence[Row], device: torch.device, *, packed: bool, bounded: bool = False) -> Batch:
    """Return the batch of `rows`; a row's first token is never supervised."""
    ids, flags, row_of, inputs = _packed(rows) if packed else _padded(rows)
    positions = np.flatnonzero(flags[:, 1:].any(axis=0))
    if len(positions) == 0:
        positions = np.zeros(1, dtype=np.int64)
    tensors = {key: torch.from_numpy(value).to(device) for key, value in inputs.items()}
    return Batch(
        inputs={**tensors, **(_bounds(rows, device) if packed and bounded and rows else {})},
        positions=torch.from_numpy(positions).to(device),
        targets=torch.from_numpy(ids[:, positions + 1]).to(device),
        is_supervised=torch.from_numpy(flags[:, positions + 1].astype(bool)).to(device),
        row_of=torch.from_numpy(row_of[:, positions + 1]).to(device),
    )


Arrays = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], dict[str, npt.NDArray[Any]]]


def _padded(rows: Sequence[Row]) -> Arrays:
    width = max(2, *(len(ids) for ids, _ in rows)) if rows else 2
    shape = (max(1, len(rows)), width)
    ids, flags = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int8)
    mask = np.zeros(shape, dtype=np.int64)
    for index, (row_ids, row_flags) in enumerate(rows):
        ids[index, : len(row_ids)] = row_ids
        flags[index, : len(row_ids)] = row_flags
        mask[index, : len(row_ids)] = 1
    flags[:, 0] = 0
    mask[:, 0] = 1  # a rank without rows still has a token to run, which nothing supervises
    row_of = np.repeat(np.arange(shape[0])[:, None], width, axis=1)
    inputs = {"input_ids": ids} if mask.all() else {"input_ids": ids, "attention_mask": mask}
    return ids, flags, row_of, inputs


def _packed(rows: Sequence[Row]) -> Arrays:
    """Lay the rows end to end.

    Positions restart with each row, and no attention mask is given: beside one of ones transformers would not
    build the block-diagonal mask, and rows would see each other (facts.md, 8: logits off by 12.7).
    """
    if not rows:
        return _padded(rows)
    flags = [np.concatenate([[np.int8(0)], row_flags[1:]]) for _, row_flags in rows]
    ids = np.concatenate([row_ids for row_ids, _ in rows]).astype(np.int64)[None]
    positions = np.concatenate([np.arange(len(row_ids)) for row_ids, _ in rows])[None]
    row_of = np.concatenate([np.full(len(row_ids), index) for index, (row_ids, _) in enumerate(rows)])[None]
    return ids, np.concatenate(flags)[None], row_of, {"input_ids": ids, "position_ids": positions}


def _bounds(rows: Sequence[Row], device: torch.device) -> dict[str, Any]:
    lengths = [len(ids) for ids, _ in rows]
    ends = torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int32)).to(device)
    longest = max(lengths)
    return {
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def supports_logit_positions(model: Any) -> bool:
    """Say whether the model computes logits at chosen positions only (most of transformers' do)."""
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
    """Return the cross-entropy in nats of each target, shape (rows, k); 0 where it is not supervised."""
    losses = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
    return losses.view(batch.targets.shape) * batch.is_supervised
