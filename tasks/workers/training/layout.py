"""The rows of an optimizer step as tensors on the device, all in one copy.

This is where the loss of training is masked: `lay_out` lists the positions whose next token has a loss, and the step
computes logits at no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tasks.workers.forward import IGNORED, Row

Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pass:
    """Tensors of one forward pass over some rows of a step.

    Attributes:
        inputs: arguments of the model, of shape (rows, tokens). Packed rows lie end to end in one row; with `bounded`,
            their bounds are included under transformers' names for FlashAttention.
        positions: (k,) positions before a label, counted through all rows one after another.
        labels: (k,) the token behind each position; IGNORED at the one position of a pass without labels.
        row_of: (k,) number of the row in the step.
    """

    inputs: dict[str, Any]
    positions: torch.Tensor
    labels: torch.Tensor
    row_of: torch.Tensor


def lay_out(
    groups: Sequence[Sequence[tuple[int, Row]]], also: Array, device: torch.device, *, packed: bool, bounded: bool
) -> tuple[list[Pass], torch.Tensor]:
    """Return one pass for each group of rows with their numbers in the step, and the array `also`, in one copy."""
    laid = [_arrays([row for _, row in group], [number for number, _ in group], packed) for group in groups]
    lengths = [[len(ids) for _, (ids, _) in group] for group in groups]
    is_bounded = [packed and bounded and bool(group) for group in groups]
    bounds = [_bounds(of_group) for of_group, wanted in zip(lengths, is_bounded, strict=True) if wanted]
    moved = iter(_in_one_copy([also, *bounds, *(array for arrays in laid for array in arrays.values())], device))
    own, ends = next(moved), [next(moved).view(torch.int32) for _ in bounds]
    passes = []
    for arrays, of_group, wanted in zip(laid, lengths, is_bounded, strict=True):
        tensors = {name: next(moved) for name in arrays}
        positions, labels, row_of = (tensors.pop(name) for name in ("positions", "labels", "row_of"))
        inputs: dict[str, Any] = dict(tensors)
        if wanted:
            end, longest = ends.pop(0)[: len(of_group) + 1], max(of_group)
            inputs |= {"cu_seq_lens_q": end, "cu_seq_lens_k": end, "max_length_q": longest, "max_length_k": longest}
        passes.append(Pass(inputs, positions, labels, row_of))
    return passes, own


def _in_one_copy(arrays: Sequence[Array], device: torch.device) -> list[torch.Tensor]:
    """Return views of one buffer on the device. From pinned memory it is copied while the device works."""
    sizes = [array.size for array in arrays]
    buffer = torch.empty(sum(sizes), dtype=torch.int64, pin_memory=device.type == "cuda")
    np.concatenate([array.ravel() for array in arrays], out=buffer.numpy())
    parts = buffer.to(device, non_blocking=True).split(sizes)
    return [part.view(array.shape) for part, array in zip(parts, arrays, strict=True)]


def _arrays(rows: Sequence[Row], numbers: Sequence[int], packed: bool) -> dict[str, Array]:
    """Return inputs, positions, labels and `row_of`; a row's first token has no loss, since nothing comes before it.

    Packed positions restart with each row, and there is no attention mask: next to a mask of ones, transformers builds
    no block-diagonal mask, and rows would see each other (measured: logits off by 12.7).
    """
    if not rows:  # a process without rows still runs two tokens, which have no loss
        rows, numbers = [(np.zeros(2, dtype=np.int32), np.zeros(2, dtype=np.int8))], [0]
    lengths = np.array([len(ids) for ids, _ in rows])
    starts = np.cumsum(lengths) - lengths
    tokens = np.concatenate([ids for ids, _ in rows]).astype(np.int64)
    loss_mask = np.concatenate([mask for _, mask in rows])
    loss_mask[starts] = 0
    within = np.arange(len(tokens)) - np.repeat(starts, lengths)
    if packed:
        place = np.arange(len(tokens))
        inputs = {"input_ids": tokens[None], "position_ids": within[None]}
    else:
        shape = len(rows), max(2, lengths.max())
        place = np.repeat(np.arange(len(rows)) * shape[1], lengths) + within
        inputs = {"input_ids": _placed(tokens, place, shape)}
        if lengths.min() < shape[1]:
            inputs["attention_mask"] = _placed(np.ones_like(tokens), place, shape)
    learned = np.flatnonzero(loss_mask)
    if len(learned) == 0:
        return inputs | {"positions": place[:1], "labels": np.array([IGNORED]), "row_of": np.array([numbers[0]])}
    row_of = np.repeat(np.asarray(numbers, dtype=np.int64), lengths)[learned]
    return inputs | {"positions": place[learned] - 1, "labels": tokens[learned], "row_of": row_of}


def _placed(values: Array, place: Array, shape: tuple[int, int]) -> Array:
    padded = np.zeros(shape, dtype=np.int64)
    padded.flat[place] = values
    return padded


def _bounds(lengths: Sequence[int]) -> Array:
    """Return where packed rows begin and end, as pairs of int32 in the memory of int64."""
    ends = np.zeros((len(lengths) + 2) // 2 * 2, dtype=np.int32)
    ends[1 : len(lengths) + 1] = np.cumsum(lengths)
    return ends.view(np.int64)
