"""Attention over packed rows on a GPU: one call for all rows, each by itself, without a mask over every pair."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface

from tasks.contracts import BaseModelRef
from tasks.data.model_size import head_width

NAME = "packed_rows"
_MAX_HEAD_WIDTH = 256  # of FlashAttention's kernels
# What a model adds to its scores, which the kernels that come with torch do not know.
_UNKNOWN_TO_KERNEL = ("attn_logit_softcapping", "attention_dropout")


def attend_within_rows(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Return causal attention of each packed row to itself, as transformers wants it of an attention function.

    Args:
        module: the attention layer.
        query, key, value: (batch, heads, tokens, width); key and value may have fewer heads.
        attention_mask: none, since rows are packed or not padded.
        options: `scaling` of the scores (else 1 / √width); `sliding_window`, how many tokens a token sees, itself
            included (else all before it); `cu_seq_lens_q` and `max_length_q`, where the rows begin and end in the one
            packed row, and the longest's tokens (else each row of the batch is one).
    """
    from torch.nn.attention.varlen import varlen_attn

    assert attention_mask is None
    batch, heads, tokens, _width = query.shape
    bounds, longest = options.get("cu_seq_lens_q"), options.get("max_length_q")
    if bounds is None or longest is None:
        bounds = torch.arange(0, (batch + 1) * tokens, tokens, dtype=torch.int32, device=query.device)
        longest = tokens
    # Under autocast rotary embeddings leave float32, which the kernels do not take.
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else query.dtype
    key, value = (
        states.repeat_interleave(heads // states.shape[1], dim=1) if states.shape[1] != heads else states
        for states in (key, value)
    )
    q, k, v = (states.transpose(1, 2).flatten(0, 1).to(dtype) for states in (query, key, value))
    seen = options.get("sliding_window")
    window = (seen - 1 if seen is not None else -1, 0)
    scale = options.get("scaling")
    output = varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=scale, window_size=window)
    return output.view(batch, tokens, heads, -1), None


def use_packed_attention(model: Any, base: BaseModelRef, device: torch.device, precision: str) -> None:
    """Let the model attend within packed rows where torch's FlashAttention can do its attention; else change nothing.

    An attention that the configuration names is left as it is too.

    Under a mask over all pairs of tokens, attention was more than half of a packed step's work on an H200
    (tests/benchmarks/RESULTS.md).
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
    """Say whether the model does, and so is to be told where packed rows begin and end."""
    implementation: str = model.config.get_text_config()._attn_implementation
    return implementation == NAME
