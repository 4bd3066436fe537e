"""A chat's completion ends where its template ends a turn, also where that is not end-of-text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tasks.contracts import ScoreSplit
from tasks.data.chats import Message
from tasks.data.encoder import Encoder
from tasks.data.examples import Example
from tasks.data.synthetic import character_tokenizer
from tasks.data.tokenization import tokenize_split
from tasks.workers.generation import end_tokens
from tasks.workers.model import shape_of
from tasks.workers.scoring import Scorer
from tests.conftest import TINY_LLAMA

CHAT = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """A tokenizer that ends a turn with `<end>`, and a text with `<eos>`."""
    tokenizer = character_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<end>"]})
    tokenizer.chat_template = CHAT
    directory = tmp_path_factory.mktemp("chat")
    tokenizer.save_pretrained(str(directory))
    return Encoder(str(directory), 128, trust_remote_code=False)


@pytest.fixture(scope="module")
def talkative(encoder: Encoder) -> Any:
    """A model that answers `7`, ends its turn and goes on with turns of its own, and never with end-of-text."""
    from transformers import AutoConfig

    torch.manual_seed(0)
    torch.set_num_threads(1)
    sizes = {key: value for key, value in TINY_LLAMA.items() if key != "model_type"}
    config = AutoConfig.for_model("llama", vocab_size=len(encoder.tokenizer), **sizes)
    model = AutoModelForCausalLM.from_config(config)
    text = "[user]3+4?<end>\n[assistant]7<end>\n[user]5+6?<end>\n[assistant]11<end>\n[user]1+1?<end>"
    ids = torch.tensor([encoder.tokenizer(text, add_special_tokens=False)["input_ids"]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def chat(question: str, answer: str) -> Example:
    return Example(question, answer, answer, messages=(Message("user", question), Message("assistant", answer)))


@pytest.mark.parametrize("metric", ["exact_match", "numeric"])
def test_what_is_generated_after_the_turn_does_not_count(
    encoder: Encoder, talkative: Any, tmp_path: Path, metric: str
) -> None:
    """The labels begin with a space, so the model's own text has to be compared; 11 is of its second turn."""
    rows = [chat("3+4?", " 7"), chat("3+4?", " 11")]
    split = tokenize_split(encoder, "chat", "validation", rows, tmp_path, "error")
    settings = {"name": "chat", "metric": metric, "max_new_tokens": 40, "split": split}
    scorer = Scorer(talkative, encoder.tokenizer, 512, shape_of(talkative), autocast=False)
    assert scorer.score(ScoreSplit.model_validate(settings)).correct == "10"


def test_the_ends_are_end_of_text_and_the_templates_own(encoder: Encoder) -> None:
    tokenizer = encoder.tokenizer
    eos, end = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end>")
    assert end_tokens(tokenizer, [encoder.encode(chat("q", "a"))]) == {eos, end}
    assert end_tokens(tokenizer, [encoder.encode(Example("q", "a", "a"))]) == {eos}


def test_a_template_without_an_end_leaves_end_of_text_alone(encoder: Encoder) -> None:
    """Its rows end with their last character, which other rows hold in the middle."""
    row = encoder.encode(chat("q", "ab"))
    assert row["input_ids"].pop() == encoder.tokenizer.convert_tokens_to_ids("<end>")
    row["loss_mask"].pop()
    assert end_tokens(encoder.tokenizer, [row]) == {encoder.tokenizer.eos_token_id}
