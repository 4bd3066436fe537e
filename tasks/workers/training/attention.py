"""Attention within packed rows on a GPU: one kernel call for all rows, without a mask over all pairs of tokens."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import AttentionInterface

from tasks.contracts import BaseModelRef
from tasks.data.model_size import head_width

NAME = "packed_rows"
_MAX_HEAD_WIDTH = 256  # of FlashAttention's kernels
# Changes to the scores that the kernels of torch do not support.
_UNKNOWN_TO_KERNEL = ("attn_logit_softcapping", "attention_dropout")


def attend_within_rows(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Return causal attention of each packed row to itself, with the signature of transformers' attention functions.

    Args:
        module: the attention layer.
        query, key, value: (batch, heads, tokens, width); key and value may have fewer heads.
        attention_mask: None, since rows are packed or have no padding.
        options: `scaling` of the scores (default 1 / √width); `sliding_window`, the number of tokens that a token sees,
            itself included (default all before it); `cu_seq_lens_q` and `max_length_q`, the bounds of the rows in the
            packed row and the length of the longest (default: each row of the batch is one row).
    """
    from torch.nn.attention.varlen import varlen_attn

    assert attention_mask is None
    batch, heads, tokens, _width = query.shape
    bounds, longest = options.get("cu_seq_lens_q"), options.get("max_length_q")
    if bounds is None or longest is None:
        bounds = torch.arange(0, (batch + 1) * tokens, tokens, dtype=torch.int32, device=query.device)
        longest = tokens
    grouped: dict[str, Any] = {}
    if heads != key.shape[1]:
        if "enable_gqa" in inspect.signature(varlen_attn).parameters:  # torch 2.12
            grouped = {"enable_gqa": True}
        else:
            key, value = (states.repeat_interleave(heads // states.shape[1], dim=1) for states in (key, value))
    # Under autocast, rotary embeddings give float32, which the kernels do not accept.
    q, k, v = (states.transpose(1, 2).flatten(0, 1).to(value.dtype) for states in (query, key, value))
    seen = options.get("sliding_window")
    window = (seen - 1 if seen is not None else -1, 0)
    scale = options.get("scaling")
    output = varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=scale, window_size=window, **grouped)
    return output.view(batch, tokens, heads, -1), None


def use_packed_attention(model: Any, base: BaseModelRef, device: torch.device, precision: str) -> None:
    """Let the model attend within packed rows if torch's FlashAttention supports its attention; else change nothing.

    An attention that the configuration names stays too. With a mask over all pairs of tokens, attention was more than
    half of the time of a packed step on an H200 (tests/benchmarks/RESULTS.md).
    """
    config = model.config.get_text_config()
    if (
        device.type == "cuda"
        and torch.version.hip is None
        and precision == "bf16"
        and base.attn_implementation is None
        and config._attn_implementation == "sdpa"
        and getattr(model, "_supports_flash_attn", False)
        and head_width(config) <= _MAX_HEAD_WIDTH
        and not any(getattr(config, name, None) for name in _UNKNOWN_TO_KERNEL)
    ):
        AttentionInterface.register(NAME, attend_within_rows)
        model.set_attn_implementation(NAME)


def attends_within_rows(model: Any) -> bool:
    """Return whether the model attends within packed rows, and so needs their bounds."""
    implementation: str = model.config.get_text_config()._attn_implementation
    return implementation == NAME
