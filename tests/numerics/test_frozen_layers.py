"""Training the upper layers alone: what is frozen stays, and its outputs read from the cache are those it computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from tasks.config.loading import parse_config
from tasks.config.schema import LoraConfig
from tasks.contracts import BaseModelRef, Inputs, Mixture, ScoreSplit, SubDatasetRef
from tasks.data.encoder import Encoder
from tasks.data.examples import Example
from tasks.data.hidden_cache import HiddenStatesSpec
from tasks.data.model_size import measure_model
from tasks.errors import ModelError
from tasks.planning.plan import make_plan
from tasks.runtime.launch import run_accelerate
from tasks.workers.cut import Cut
from tasks.workers.hidden_states import compute
from tasks.workers.model import load_base, shape_of, trained_names
from tasks.workers.scoring import Scorer
from tasks.workers.train import train
from tests.conftest import examples_of
from tests.numerics.test_fsdp import FSDP, train_sharded
from tests.numerics.test_training import largest_difference, result_of, spec_of, weights_at

MakeRollout = Callable[..., Path]
SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 64}
FAMILIES: dict[str, PreTrainedConfig] = {
    "Llama": LlamaConfig(**SMALL, intermediate_size=32),
    "Qwen2": Qwen2Config(**SMALL, intermediate_size=32, num_key_value_heads=1),
    "Gemma": GemmaConfig(**SMALL, intermediate_size=32, head_dim=8, num_key_value_heads=1),
    "GPT-2": GPT2Config(n_embd=16, n_layer=3, n_head=2, vocab_size=64),
    "GPT-NeoX": GPTNeoXConfig(**SMALL, intermediate_size=32),
}


@pytest.fixture
def upper(tiny_base: BaseModelRef) -> BaseModelRef:
    return tiny_base.model_copy(update={"trainable_layers": 1})


@pytest.fixture
def keep_states(tmp_path: Path) -> Callable[..., str]:
    """Return a function that computes hidden states and returns their folder."""

    def keep(base: BaseModelRef, mixture: Mixture | None, *splits: ScoreSplit) -> str:
        spec = HiddenStatesSpec(
            model=base, trained=tuple(part.train for part in mixture.draws) if mixture else (), scored=splits,
            batch_tokens=128, threads=1, device="cpu", precision="fp32", directory=str(tmp_path / "states"),
        )  # fmt: skip
        path = tmp_path / "hidden_states_spec.json"
        path.write_text(spec.model_dump_json())
        compute(path)
        return spec.directory

    return keep


@pytest.mark.parametrize("family", FAMILIES)
def test_upper_layers_compute_alike_from_given_states(family: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family]).eval()
    cut = Cut(model, 2)
    cut.freeze(model)
    cut.check(model, family, tolerance=1e-6)
    behind = {name.split(".")[-2] for name in trained_names(model) if ".2." not in name}
    assert len(behind) == 1
    assert behind < {"norm", "ln_f", "final_layer_norm"}
    assert any(".2." in name for name in trained_names(model))
    ids = torch.arange(10).view(1, 10)
    states = cut.outputs(model, {"input_ids": ids})
    assert not torch.equal(
        model(input_ids=ids).logits, model(input_ids=ids, hidden_states_at_cut=states + torch.randn(16)).logits
    )


def test_frozen_layers_have_no_dropout_in_training() -> None:
    model = AutoModelForCausalLM.from_config(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=64))
    cut = Cut(model, 1)
    model.train()
    first, second = (cut.outputs(model, {"input_ids": torch.arange(9)[None]}) for _ in range(2))
    assert torch.equal(first, second)
    assert model.transformer.h[1].training


def test_a_model_without_one_list_of_layers_is_refused() -> None:
    model = AutoModelForCausalLM.from_config(FAMILIES["Llama"])
    model.model.others = torch.nn.ModuleList([torch.nn.Identity() for _ in range(3)])
    with pytest.raises(ModelError, match=r"2 lists of 3 modules in a Llama.*\n.*one list of its decoder layers"):
        Cut(model, 1)


def test_upper_layers_that_need_more_than_the_cut_are_refused() -> None:
    model = AutoModelForCausalLM.from_config(FAMILIES["Llama"])
    cut, (lower, _, upper) = Cut(model, 1), model.model.layers
    seen: list[torch.Tensor] = []
    model.register_forward_pre_hook(lambda module, args: seen.clear())
    lower.self_attn.register_forward_hook(lambda module, args, output: seen.append(100 * output[0]))
    upper.register_forward_hook(lambda module, args, output: output + sum(seen))
    with pytest.raises(ModelError, match=r"(?s)upper layers that use more.*trainable_layers=all"):
        cut.check(model, "it")


@pytest.mark.parametrize(
    ("settings", "lora"),
    [
        pytest.param({"micro_batch_size": 4, "ema": 0.9}, None, id="micro-batches, averaged"),
        pytest.param({"batching": "packed"}, None, id="packed"),
        pytest.param({"batching": "padded"}, LoraConfig(r=4, alpha=8), id="LoRA"),
    ],
)
def test_training_from_the_cache_is_training_without_it(
    upper: BaseModelRef,
    tiny_mixture: Mixture,
    make_rollout: MakeRollout,
    keep_states: Callable[..., str],
    settings: dict[str, Any],
    lora: LoraConfig | None,
) -> None:
    base = upper.model_copy(update={"lora": lora})
    computed, cached = (make_rollout(name, base=base, **settings) for name in ("computed", "cached"))
    folder = keep_states(base, tiny_mixture)
    cached.write_text(spec_of(cached).model_copy(update={"hidden_states": folder}).model_dump_json())
    train(computed)
    train(cached)
    assert largest_difference(weights_at(computed, 9), weights_at(cached, 9)) < 1e-5
    assert largest_difference(weights_at(cached, 0), weights_at(cached, 9)) > 1e-3
    for one, other in zip(result_of(computed).intervals, result_of(cached).intervals, strict=True):
        assert one.losses == pytest.approx(other.losses, abs=1e-5)
        assert 0.4 < other.flops / one.flops < 0.9
        assert one.batch_hash == other.batch_hash
    held = weights_at(cached, 9)
    assert all("layers.1." in name or name == "model.norm.weight" for name in held)
    assert all(("lora" in name) == (lora is not None) for name in held)


def test_scores_from_the_cache_are_scores_without_it(
    upper: BaseModelRef, encoder: Encoder, make_split: Callable[..., ScoreSplit], keep_states: Callable[..., str]
) -> None:
    texts = ("A", "B", "CB")
    rows = [Example(f"q{i}:", texts[i % 3], texts[i % 3], choices=texts) for i in range(9)]
    splits = [make_split("max", "exact_match", examples_of("max")), make_split("ab", "multiple_choice", rows)]
    folder = keep_states(upper, None, *splits)
    found = []
    for hidden_states in (None, folder):
        model = load_base(upper)
        scorer = Scorer(model, encoder.tokenizer, 128, shape_of(model), autocast=False)
        scorer.hidden_states = hidden_states
        scores = scorer.score_all(splits)
        found.append((scores, scorer.cost.flops, scorer.plan(splits).from_cache))
    (without, whole, _), (cached, upper_part, is_read) = found
    assert [score.correct for score in cached] == [score.correct for score in without]
    assert [score.loss for score in cached] == pytest.approx([score.loss for score in without], abs=1e-5)
    assert is_read
    assert upper_part < whole


def test_states_of_other_trees_are_not_read(
    upper: BaseModelRef, encoder: Encoder, make_split: Callable[..., ScoreSplit], keep_states: Callable[..., str]
) -> None:
    split = make_split("max", "exact_match", examples_of("max"))
    model = load_base(upper)
    scorer = Scorer(model, encoder.tokenizer, 128, shape_of(model), autocast=False)
    scorer.hidden_states = keep_states(upper, None, split)
    scorer._widest_tree = 0
    other = split.model_copy(update={"metric": "loss"})
    assert not scorer.plan([other]).from_cache
    assert scorer.plan([split]).from_cache


@pytest.mark.parametrize("lora", [None, LoraConfig(r=4)], ids=["full", "LoRA"])
def test_a_plan_measures_the_cut_that_a_worker_makes(upper: BaseModelRef, lora: LoraConfig | None) -> None:
    base = upper.model_copy(update={"lora": lora})
    model, size = load_base(base), measure_model(base)
    assert shape_of(model) == size.shape
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == size.num_trained
    assert load_file(Path(base.directory, "model.safetensors"))["model.norm.weight"].numel() == size.hidden_width


@pytest.mark.parametrize(("limit", "is_kept"), [(1e-3, True), (1e-5, False), (0.0, False)])
def test_outputs_above_the_limit_are_not_kept(
    upper: BaseModelRef, tiny_mixture: Mixture, make_split: Callable[..., ScoreSplit], limit: float, is_kept: bool
) -> None:
    split = make_split("max", "exact_match", examples_of("max", "validation"))
    (train,) = (part.train for part in tiny_mixture.draws if part.name == "max")
    part = SubDatasetRef(
        name="max", metric="exact_match", max_new_tokens=8, train=train, validation=split.split,
        test_sha256=None, num_test_rows=0,
    )  # fmt: skip
    inputs = Inputs(model=upper, sub_datasets=(part,))
    config = parse_config(
        {
            "name": "test",
            "model": {"source": "none"},
            "mixture": {"sub_datasets": [{"name": "max", "path": "max"}]},
            "training": {"trainable_layers": 1, "hidden_cache_gb": limit, "device": "cpu"},
            "search": {"max_epochs": 2},
        },
        "test",
    )
    plan = make_plan(config, inputs)
    assert plan.hidden_states_bytes == 4 * 32 * (train.num_tokens + split.split.num_tokens)
    assert plan.keeps_hidden_states == is_kept
    whole = make_plan(config, inputs.model_copy(update={"model": upper.model_copy(update={"trainable_layers": None})}))
    assert (whole.hidden_states_bytes, whole.keeps_hidden_states) == (0, False)
    assert plan.expected.training_flops < whole.expected.training_flops
    assert (plan.expected.evaluation_flops < whole.expected.evaluation_flops) == is_kept


@pytest.mark.nightly
@pytest.mark.parametrize("settings", [{"num_processes": 2}, {"accelerate_config": str(FSDP)}], ids=["two", "FSDP"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_processes_train_upper_layers_as_one_does(
    upper: BaseModelRef,
    tiny_mixture: Mixture,
    make_rollout: MakeRollout,
    keep_states: Callable[..., str],
    settings: dict[str, Any],
    precision: str,
) -> None:
    one = make_rollout("one", base=upper, ema=0.9, precision=precision)
    two = make_rollout("two", base=upper, ema=0.9, precision=precision, micro_batch_size=4, **settings)
    folder = keep_states(upper, tiny_mixture)
    two.write_text(spec_of(two).model_copy(update={"hidden_states": folder}).model_dump_json())
    train(one)
    if "accelerate_config" in settings:
        train_sharded(two)
    else:
        run_accelerate("tasks.workers.train", two, name="two", training=spec_of(two).training)
    assert largest_difference(weights_at(one, 9), weights_at(two, 9)) < (2e-5 if precision == "fp32" else 5e-3)
