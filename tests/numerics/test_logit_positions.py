"""Logits at chosen positions are the model's own there, and no others are computed where the model allows it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    PreTrainedConfig,
)

from tasks.workers.forward import LogitsAt

SIZES: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4,
}  # fmt: skip
IDS = torch.randint(0, 61, (3, 9), generator=torch.Generator().manual_seed(1))
POSITIONS = torch.tensor([1, 3, 9, 17, 26])


def built(config: PreTrainedConfig) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def with_adapters_at_the_head() -> Any:
    config = LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, target_modules=["q_proj", "lm_head"])
    return get_peft_model(built(LlamaConfig(**SIZES)), config).eval()


class Doubled(LlamaForCausalLM):
    """Computes its logits with the head's weight, and not by calling the head."""

    def forward(self, input_ids: torch.Tensor, **options: Any) -> Any:  # type: ignore[override]
        hidden = self.model(input_ids, use_cache=False)
        return type("Output", (), {"logits": F.linear(hidden.last_hidden_state, self.lm_head.weight) * 2})


@pytest.mark.parametrize(
    "model",
    [
        built(LlamaConfig(**SIZES)),
        built(Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=0.5)),
        built(GraniteConfig(**SIZES, logits_scaling=3.0)),
        built(GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4)),
        built(MambaConfig(vocab_size=61, hidden_size=32, num_hidden_layers=2)),
        with_adapters_at_the_head(),
    ],
    ids=["llama", "soft-capped", "scaled", "tied", "recurrent", "adapters at the head"],
)
def test_only_the_logits_asked_for_are_computed(model: Any) -> None:
    logits_at, computed = LogitsAt(model), []
    head = model.get_output_embeddings()
    with torch.no_grad(), head.register_forward_hook(lambda head, inputs, output: computed.append(output.numel())):
        given = logits_at({"input_ids": IDS}, POSITIONS)
    assert computed == [given.numel()] == [5 * 61]
    with torch.no_grad():
        own = model(input_ids=IDS).logits.flatten(0, 1)[POSITIONS]
    torch.testing.assert_close(given, own, rtol=1e-5, atol=1e-6)


def test_a_model_that_passes_its_head_by_has_its_own_logits() -> None:
    torch.manual_seed(0)
    model = Doubled(LlamaConfig(**SIZES)).eval()
    with torch.no_grad():
        given = LogitsAt(model)({"input_ids": IDS}, POSITIONS)
        torch.testing.assert_close(given, model(IDS).logits.flatten(0, 1)[POSITIONS])


def test_a_model_without_a_head_gives_the_columns_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(LlamaConfig(**SIZES))
    with torch.no_grad():
        own = model(input_ids=IDS).logits.flatten(0, 1)[POSITIONS]
        monkeypatch.setattr(model, "get_output_embeddings", lambda: None)
        torch.testing.assert_close(LogitsAt(model)({"input_ids": IDS}, POSITIONS), own, rtol=1e-5, atol=1e-6)
