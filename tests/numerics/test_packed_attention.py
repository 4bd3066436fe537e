"""Packed rows attend within themselves: losses and gradients are those of each row alone.

torch's kernel runs on a GPU only; without one, an exact attention of the same signature stands in for it, so that what
is asked of the kernel (bounds, window, scale, heads) is tested everywhere.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F
from torch.nn.attention import varlen
from transformers import AutoModelForCausalLM, GemmaConfig, LlamaConfig, MistralConfig, PreTrainedConfig

from tasks.contracts import BaseModelRef
from tasks.workers.forward import LogitsAt, Row
from tasks.workers.training.attention import attends_within_rows, use_packed_attention
from tasks.workers.training.layout import Pass, lay_out

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
SIZES = {
    "vocab_size": 61,
    "hidden_size": 96,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "attn_implementation": "sdpa",
}
LLAMA, MISTRAL = LlamaConfig(**SIZES), MistralConfig(**SIZES, sliding_window=5)


def exact(*operands: Any, scale: float | None, window_size: tuple[int, int], enable_gqa: bool = False) -> torch.Tensor:
    """Attend within each row by a mask."""
    q, k, v, bounds, _, longest, _ = operands
    assert enable_gqa == (k.shape[1] < q.shape[1])
    parts = []
    for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        assert end - begin <= longest
        back = torch.arange(end - begin)[:, None] - torch.arange(end - begin)[None]
        mask = (back >= 0) & ((back <= window_size[0]) | torch.tensor(window_size[0] < 0))
        row = [states[begin:end].transpose(0, 1) for states in (q, k, v)]
        attended = F.scaled_dot_product_attention(*row, attn_mask=mask, scale=scale, enable_gqa=enable_gqa)
        parts.append(attended.transpose(0, 1))
    return torch.cat(parts)


def rows_of(*lengths: int) -> list[Row]:
    draw = np.random.default_rng(3)
    return [(draw.integers(0, 61, size=length).astype(np.int32), np.ones(length, dtype=np.int8)) for length in lengths]


def model_of(config: PreTrainedConfig) -> Any:
    torch.manual_seed(5)
    return AutoModelForCausalLM.from_config(deepcopy(config), dtype=torch.float32).to(DEVICE)


def passes_of(groups: list[list[tuple[int, Row]]], packed: bool, bounded: bool) -> list[Pass]:
    return lay_out(groups, np.zeros(0, dtype=np.int64), DEVICE, packed=packed, bounded=bounded)[0]


def losses_of(model: Any, one: Pass) -> torch.Tensor:
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=GPU):  # the kernel takes no float32
        return LogitsAt(model).losses(one.inputs, one.positions, one.labels)


def losses_and_gradients(model: Any, rows: list[Row], *, packed: bool) -> tuple[list[float], list[torch.Tensor]]:
    """Return each row's loss, and the gradient of their sum."""
    model.zero_grad()
    sums = torch.zeros(len(rows), device=DEVICE)
    parts = [list(range(len(rows)))] if packed else [[index] for index in range(len(rows))]
    passes = passes_of([[(i, rows[i]) for i in part] for part in parts], packed, attends_within_rows(model))
    for one in passes:
        losses = losses_of(model, one)
        losses.sum().backward()
        sums.index_add_(0, one.row_of, losses.detach())
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return sums.tolist(), gradients


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the exact attention in the kernel's place where there is no GPU."""
    if not GPU:
        monkeypatch.setattr(varlen, "varlen_attn", exact)


@pytest.mark.parametrize("config", [LLAMA, MISTRAL], ids=["llama", "mistral with a window"])
@pytest.mark.usefixtures("kernel")
def test_packed_rows_train_as_each_row_alone_does(tiny_base: BaseModelRef, config: PreTrainedConfig) -> None:
    rows = rows_of(7, 1, 19, 2, 33)
    alone = losses_and_gradients(model_of(config), rows, packed=False)  # transformers' own attention
    model = model_of(config)
    use_packed_attention(model, tiny_base, torch.device("cuda"), "bf16")
    assert attends_within_rows(model)
    packed = losses_and_gradients(model, rows, packed=True)
    apart = losses_and_gradients(model, rows, packed=False)  # each row one of its batch
    tolerance = 0.03 if GPU else 1e-5
    for losses, gradients in (packed, apart):
        assert losses == pytest.approx(alone[0], rel=tolerance, abs=tolerance)
        for mine, theirs in zip(gradients, alone[1], strict=True):
            assert float((mine - theirs).norm()) <= tolerance * float(theirs.norm()) + 1e-6


@pytest.mark.usefixtures("kernel")
def test_adapters_train_on_packed_rows_with_recomputation(tiny_base: BaseModelRef) -> None:
    rows, gradients = rows_of(7, 1, 19), []
    for packed in (False, True):
        model = get_peft_model(model_of(LLAMA), LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False))
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
        if packed:
            use_packed_attention(model, tiny_base, torch.device("cuda"), "bf16")
            assert attends_within_rows(model)
        gradients.append(losses_and_gradients(model.train(), rows, packed=packed)[1])
    tolerance = 0.03 if GPU else 1e-5
    assert gradients[0]
    for alone, mine in zip(*gradients, strict=True):
        assert float((mine - alone).norm()) <= tolerance * float(alone.norm()) + 1e-6


@pytest.mark.usefixtures("kernel")
def test_rows_without_their_bounds_see_each_other(tiny_base: BaseModelRef) -> None:
    """`check_packing` refuses this before the first step."""
    rows, model = rows_of(7, 19), model_of(LLAMA)
    use_packed_attention(model, tiny_base, torch.device("cuda"), "bf16")
    right, _ = losses_and_gradients(model, rows, packed=True)
    (unbounded,) = passes_of([list(enumerate(rows))], packed=True, bounded=False)
    assert abs(losses_of(model, unbounded).sum().item() - sum(right)) > 0.01


@pytest.mark.parametrize(
    ("config", "chosen", "device", "precision"),
    [
        (LLAMA, None, "cpu", "bf16"),
        (LLAMA, None, "cuda", "fp32"),
        (LLAMA, "sdpa", "cuda", "bf16"),
        (LlamaConfig(**{**SIZES, "attn_implementation": "eager"}), None, "cuda", "bf16"),
        (LlamaConfig(**{**SIZES, "head_dim": 512}), None, "cuda", "bf16"),
        (LlamaConfig(**SIZES, attention_dropout=0.1), None, "cuda", "bf16"),
        (GemmaConfig(**SIZES, attn_logit_softcapping=50.0), None, "cuda", "bf16"),
    ],
    ids=["a CPU", "float32", "the user's choice", "the model's", "heads too wide", "dropout", "capped scores"],
)
def test_other_attention_is_left_as_it_is(
    tiny_base: BaseModelRef, config: PreTrainedConfig, chosen: str | None, device: str, precision: str
) -> None:
    model, base = model_of(config), tiny_base.model_copy(update={"attn_implementation": chosen})
    before = model.config._attn_implementation
    use_packed_attention(model, base, torch.device(device), precision)
    assert model.config._attn_implementation == before
    assert not attends_within_rows(model)
