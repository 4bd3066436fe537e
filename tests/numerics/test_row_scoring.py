"""Rows are scored as their text is generated: choices with their end, answers after a thought, texts that go on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tasks.contracts import BaseModelRef, ScoreSplit
from tasks.data.chats import Message
from tasks.data.encoder import Encoder
from tasks.data.examples import Example
from tasks.data.synthetic import character_tokenizer
from tasks.data.tokenization import tokenize_split
from tasks.workers.model import load_tokenizer, shape_of
from tasks.workers.scoring import Scorer
from tests.conftest import TINY_LLAMA
from tests.made_tokenizers import TEMPLATES


def encoder_at(directory: Path, eos_token: str | None = "<eos>") -> Encoder:
    tokenizer = character_tokenizer()
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>", "<think>", "</think>"])
    tokenizer.chat_template, tokenizer.eos_token = TEMPLATES["qwen3"], eos_token
    tokenizer.save_pretrained(str(directory))
    return Encoder(str(directory), 128, trust_remote_code=False)


def taught(encoder: Encoder, examples: Sequence[Example], steps: int = 120) -> Any:
    """Return a tiny model trained on the rows, as the worker trains it."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    sizes = {key: value for key, value in TINY_LLAMA.items() if key != "model_type"}
    config = AutoConfig.for_model("llama", vocab_size=len(encoder.tokenizer), **sizes)
    model = AutoModelForCausalLM.from_config(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rows = [encoder.encode(example) for example in examples]
    width = max(row["num_tokens"] for row in rows)
    ids = torch.tensor([row["input_ids"] + [0] * (width - row["num_tokens"]) for row in rows])
    mask = torch.tensor([row["loss_mask"] + [0] * (width - row["num_tokens"]) for row in rows])
    for _ in range(steps):
        model(input_ids=ids, labels=torch.where(mask == 1, ids, -100)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def score(encoder: Encoder, model: Any, examples: Sequence[Example], metric: str, cache: Path) -> str:
    split = tokenize_split(encoder, "rows", "validation", examples, cache, "error")
    settings = {"name": "rows", "metric": metric, "max_new_tokens": 40, "split": split}
    scorer = Scorer(model, encoder.tokenizer, 512, shape_of(model), autocast=False)
    return scorer.score(ScoreSplit.model_validate(settings)).correct


def test_a_choice_that_begins_another_does_not_win_unlearned(tmp_path: Path) -> None:
    """Without its end, ` 1` is never less likely than ` 12`."""
    encoder = encoder_at(tmp_path / "tokenizer")
    texts = {"one:": " 1", "twelve:": " 12", "a:": " 1", "b:": " 12"}
    rows = [Example(prompt, text, text.strip(), (" 1", " 12")) for prompt, text in texts.items()]
    model = taught(encoder, rows, steps=300)
    assert score(encoder, model, rows, "exact_match", tmp_path / "cache") == "1111"
    assert score(encoder, model, rows, "multiple_choice", tmp_path / "cache") == "1111"


def thinking(question: str, thought: str, answer: str) -> Example:
    messages = (Message("user", question), Message("assistant", answer, {"reasoning_content": thought}))
    return Example(question, answer, answer, messages=messages)


@pytest.mark.parametrize("metric", ["exact_match", "numeric"])
def test_an_answer_counts_whatever_the_thought_before_it(tmp_path: Path, metric: str) -> None:
    encoder = encoder_at(tmp_path / "tokenizer")
    model = taught(encoder, [thinking("3+4?", "add", "7"), thinking("5+6?", "sum", "11")])
    rows = [thinking("3+4?", "add", "7"), thinking("3+4?", "I say", "7"), thinking("5+6?", "I say", "7")]
    assert score(encoder, model, rows, metric, tmp_path / "cache") == "110"


def test_a_likely_text_that_nothing_ends_is_generated(tmp_path: Path) -> None:
    """Without an end, `7` is the beginning of `7, I think`."""
    encoder = encoder_at(tmp_path / "tokenizer", eos_token=None)
    model = taught(encoder, [Example("3+4?", " 7, I think", "7")])
    rows = [Example("3+4?", " 7", "7")]
    assert score(encoder, model, rows, "exact_match", tmp_path / "cache") == "0"


def test_workers_and_exports_have_the_searchs_chat_template(tiny_base: BaseModelRef, tmp_path: Path) -> None:
    load_tokenizer(tiny_base.model_copy(update={"chat_template": "mine"})).save_pretrained(str(tmp_path))
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == "mine"
