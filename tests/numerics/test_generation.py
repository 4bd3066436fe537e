"""Generation is greedy by our settings alone, has room, and decides as generating every token would."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM

from tasks.contracts import BaseModelRef, ScoreSplit
from tasks.data.encoder import Encoder
from tasks.data.examples import Example
from tasks.workers.generation import Generator, Goal
from tasks.workers.model import load_base, shape_of
from tasks.workers.scoring import Scorer
from tests.conftest import examples_of

SETTINGS: dict[str, dict[str, Any]] = {
    "no repeated n-grams": {"no_repeat_ngram_size": 1},
    "a least length": {"min_new_tokens": 12},
    "strings that stop": {"stop_strings": ["0", "1", "2", "3"]},
    "a dictionary returned": {"return_dict_in_generate": True, "output_scores": True},
    "a penalty of repetition": {"repetition_penalty": 5.0},
    "tokens suppressed": {"suppress_tokens": list(range(40)), "bad_words_ids": [[50]]},
    "tokens forced": {"forced_bos_token_id": 20, "forced_eos_token_id": 21},
    "beams and samples": {"num_beams": 3, "num_return_sequences": 2, "do_sample": True, "temperature": 9.0},
    "another end": {"eos_token_id": list(range(20, 60))},
    "a greatest length": {"max_length": 9, "max_time": 1e-9},
    "contrast": {"penalty_alpha": 0.9, "top_k": 5, "epsilon_cutoff": 0.3, "renormalize_logits": True},
    "no cache": {"use_cache": False, "guidance_scale": 3.0, "prompt_lookup_num_tokens": 2},
}


@pytest.fixture(scope="module")
def taught_directory(half_taught: Any, tiny_base: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("taught") / "model"
    shutil.copytree(tiny_base.directory, directory)
    half_taught.save_pretrained(directory)
    return directory


@pytest.fixture(params=["generation_config.json", "config.json"])
def directory(request: pytest.FixtureRequest, taught_directory: Path, tmp_path: Path) -> tuple[Path, str]:
    """A copy of the model, and the file with its settings."""
    copy = tmp_path / "model"
    shutil.copytree(taught_directory, copy)
    (copy / "generation_config.json").unlink(missing_ok=True)
    return copy, request.param


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_no_generation_setting_of_the_base_changes_a_score(
    directory: tuple[Path, str],
    tiny_base: BaseModelRef,
    encoder: Encoder,
    make_split: Callable[..., ScoreSplit],
    settings: dict[str, Any],
) -> None:
    base, file = tiny_base.model_copy(update={"directory": str(directory[0])}), directory[0] / directory[1]
    worded = [Example(e.prompt, f"say{e.completion}", e.answer) for e in examples_of("max")]  # so all are generated
    split, scores = make_split("max", "numeric", worded), []
    for added in ({}, settings):
        content = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(content | added))
        model = load_base(base)
        scores.append(Scorer(model, encoder.tokenizer, 512, shape_of(model), autocast=False).score(split).correct)
    assert scores[1] == scores[0]
    assert {*scores[0]} == {"0", "1"}


def test_a_row_at_the_models_last_position_is_generated(
    encoder: Encoder, make_split: Callable[..., ScoreSplit]
) -> None:
    """A model with learned positions has none beyond; another row of the batch has room for all tokens."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(encoder.tokenizer), n_positions=48, n_embd=16, n_layer=1, n_head=1)
    model = GPT2LMHeadModel(config)
    prompts = ["max 1 2?" + "." * count for count in (0, 30, 38)]
    split = make_split("long", "numeric", [Example(prompt, "2", "2") for prompt in prompts], max_new_tokens=24)
    assert Scorer(model, encoder.tokenizer, 512, shape_of(model), autocast=False).score(split).num_examples == 3
    generator = Generator(model, encoder.tokenizer, frozenset(), 512, lambda work: None, whole=True)
    rows = [encoder.encode(example) for example in [Example(prompt, "22", "2") for prompt in prompts]]
    answers = generator.answers(rows, [[5, 5, 5]] * 3, [Goal("2", is_numeric=False)] * 3, [24] * 3)
    assert [len(answer.text) for answer in answers] == [24, 48 - 38, 48 - 46]


@pytest.mark.parametrize(("limit", "text", "is_correct"), [(1, "4", False), (2, "43", True), (24, "43", True)])
def test_a_completion_that_agrees_is_cut_by_the_limit(
    half_taught: Any, encoder: Encoder, limit: int, text: str, is_correct: bool
) -> None:
    row = encoder.encode(Example("max 4 43?", "43", "43"))
    target = row["input_ids"][row["prompt_length"] :]
    ends = frozenset({encoder.tokenizer.eos_token_id})
    generator = Generator(half_taught, encoder.tokenizer, ends, 512, lambda work: None)
    (answer,) = generator.answers([row], [target], [Goal("43", is_numeric=False)], [limit])
    assert (answer.text, answer.is_correct) == (text, is_correct)


def test_an_end_within_the_completion_ends_the_generation(half_taught: Any, encoder: Encoder) -> None:
    row = encoder.encode(Example("max 4 43?", "43", "43"))
    target = row["input_ids"][row["prompt_length"] :]
    ends = frozenset({target[0] + 1, target[1]})
    generator = Generator(half_taught, encoder.tokenizer, ends, 512, lambda work: None)
    (answer,) = generator.answers([row], [target], [Goal("43", is_numeric=False)], [24])
    assert (answer.text, answer.is_correct) == ("4", False)


@pytest.mark.parametrize("kind", ["attention", "windows", "recurrent"])
def test_rows_that_leave_have_the_texts_of_generate(half_taught: Any, encoder: Encoder, kind: str) -> None:
    """The ends are so common that rows leave one after another."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": len(encoder.tokenizer), "num_hidden_layers": 2, "initializer_range": 0.3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32, "intermediate_size": 32}
    models = {
        "attention": lambda: half_taught,
        "windows": lambda: MistralForCausalLM(MistralConfig(**sizes, **heads, sliding_window=8)),
        "recurrent": lambda: MambaForCausalLM(MambaConfig(**sizes, hidden_size=32)),
    }
    model, ends = models[kind]().eval(), frozenset(range(30, 45))
    prompts = [encoder.encode(example)["input_ids"][: 4 + index] for index, example in enumerate(examples_of("max"))]
    starts, limits = [prompt[:1] for prompt in prompts], [5 + 2 * (index % 7) for index in range(len(prompts))]
    widths: list[int] = []
    with torch.inference_mode():
        generator = Generator(model, encoder.tokenizer, ends, 4096, lambda work: None)
        with model.register_forward_pre_hook(lambda *call: widths.append(len(call[2]["input_ids"])), with_kwargs=True):
            texts = generator.generate(prompts, starts, limits)
        alone = []
        for prompt, start, limit in zip(prompts, starts, limits, strict=True):
            ids = torch.tensor([prompt + start])
            new = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit - 1)
            kept = [token for token in [*start, *new[0, ids.shape[1] :].tolist()] if token not in ends]
            alone.append(encoder.tokenizer.decode(kept, skip_special_tokens=True))
    assert texts == alone
    assert (len(set(widths)) > 4) == (kind != "recurrent")
