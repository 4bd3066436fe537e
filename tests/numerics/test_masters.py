"""In bf16 what computes is a copy of float32 weights, which alone are updated, averaged and saved."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, Gemma2Config, GlmConfig, LlamaConfig

from tasks.config.schema import LoraConfig
from tasks.contracts import BaseModelRef
from tasks.record.paths import checkpoint_directory
from tasks.workers.train import train
from tasks.workers.training.kernels import use_few_kernels
from tasks.workers.training.learner import repeat_bits
from tests.benchmarks.count_step import CASTS, KERNELS, count_step
from tests.numerics.conftest import trainer_of

MakeRollout = Callable[..., Path]


def test_a_step_in_bf16_casts_no_weight(make_rollout: MakeRollout) -> None:
    counts = count_step(trainer_of(make_rollout("bf16", precision="bf16", batching="packed")))
    assert counts[CASTS] == 0
    assert counts[KERNELS] <= 170  # of two layers


def test_checkpoints_hold_float32_weights_that_small_updates_reach(make_rollout: MakeRollout) -> None:
    """A step of 1e-6 changes no weight in bf16 whose value is above 1e-3."""
    path = make_rollout("small", precision="bf16", learning_rate=1e-6, warmup_steps=0, ema=0.5)
    train(path)
    before, after = (
        {file.stem: load_file(file) for file in checkpoint_directory(path.parent, step).glob("*.safetensors")}
        for step in (0, 9)
    )
    for file in ("model", "average"):
        assert {value.dtype for value in after[file].values()} == {torch.float32}
        for name, value in after[file].items():
            moved = (value - before[file][name]).abs()
            assert 0 < moved.max() <= 2e-5
            assert (moved > 0).float().mean() > 0.5


def test_micro_batches_add_up_in_float32(make_rollout: MakeRollout) -> None:
    """Each pass is rounded to bf16; their sum, as of no bf16 number, is not."""
    trainer = trainer_of(make_rollout("sum", precision="bf16", micro_batch_size=1))
    masters = trainer.learner.masters
    assert masters is not None
    weight, master = (next(model.parameters()) for model in (masters.running, trainer.learner.model))
    for value in (1.0, 2.0**-9, 2.0**-9):
        weight.grad = torch.full_like(weight, value)
        masters.add_gradients()
    assert weight.grad is None
    assert master.grad is not None
    assert torch.equal(master.grad, torch.full_like(master, 1 + 2.0**-8))


def test_adapters_train_in_bf16_beside_frozen_weights(tiny_base: BaseModelRef, make_rollout: MakeRollout) -> None:
    base = tiny_base.model_copy(update={"lora": LoraConfig(r=4, alpha=8), "gradient_checkpointing": True})
    path = make_rollout("lora", base=base, precision="bf16")
    trainer = trainer_of(path)
    shared = [p for p in trainer.learner.model.parameters() if not p.requires_grad]
    assert {p.dtype for p in shared} == {torch.bfloat16}
    running = {p.data_ptr() for p in trainer.learner.running.parameters()}
    assert all(p.data_ptr() in running for p in shared)
    trainer.run()
    losses = [interval.losses["cmp"] for interval in trainer.account.closed]
    assert losses[1] < losses[0]


def test_norms_are_fused_where_that_changes_nothing() -> None:
    sizes: dict[str, Any] = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
    for config, is_fused in ((LlamaConfig(**sizes), True), (Gemma2Config(**sizes), False)):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        ids = torch.arange(40).view(2, 20)
        own = model(ids).logits
        use_few_kernels(model)
        norms = [module for module in model.modules() if type(module).__name__.endswith("RMSNorm")]
        assert norms
        assert all(("forward" in vars(norm)) == is_fused for norm in norms)
        torch.testing.assert_close(model(ids).logits, own, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("config", [LlamaConfig, GlmConfig], ids=["halves", "pairs"])
def test_rotary_embeddings_turn_as_the_models_own(config: Any) -> None:
    """GLM turns neighbours in place of halves, and keeps its own function."""
    sizes: dict[str, Any] = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "pad_token_id": 0}
    ids, found = torch.arange(40).view(2, 20), []
    for kernels in (False, True):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config(**sizes), dtype=torch.bfloat16)
        code = sys.modules[type(model).__module__]
        own = getattr(code.apply_rotary_pos_emb, "replaces", code.apply_rotary_pos_emb)
        code.apply_rotary_pos_emb = own
        if kernels:
            use_few_kernels(model)
            assert (code.apply_rotary_pos_emb is not own) == (config is LlamaConfig)
        model(ids).logits.float().square().sum().backward()
        found.append([p.grad.float() for p in model.parameters() if p.grad is not None])
    for own, fewer in zip(*found, strict=True):
        assert float((fewer - own).norm()) <= 0.03 * float(own.norm())


def test_a_norm_of_other_mathematics_is_left_alone() -> None:
    class ShiftedRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.variance_epsilon = nn.Parameter(torch.zeros(8)), 1e-6

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            scale = torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
            return hidden * scale * (1 + self.weight)

    norm = ShiftedRMSNorm()
    use_few_kernels(norm)
    assert "forward" not in vars(norm)


@pytest.fixture
def _settings() -> Iterator[None]:
    filled = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = filled


@pytest.mark.usefixtures("_settings")
def test_a_gpu_is_asked_for_kernels_that_repeat_their_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    repeat_bits(torch.device("cpu"))
    assert not torch.are_deterministic_algorithms_enabled()
    repeat_bits(torch.device("cuda"))
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory
