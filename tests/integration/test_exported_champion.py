"""The exported champion ends by itself and generates, with plain transformers, what was scored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tasks.algorithm.state import CheckpointKey
from tasks.contracts import BaseModelRef, CheckpointScores, Mixture, ScoreRequest, ScoreSpec, ScoreSplit
from tasks.data.chats import Message
from tasks.data.encoder import Encoder
from tasks.data.examples import Example
from tasks.data.synthetic import character_tokenizer
from tasks.data.tokenization import tokenize_split
from tasks.record.paths import checkpoint_directory, score_file_of
from tasks.workers.build_base import build_base
from tasks.workers.score import score
from tasks.workers.train import train
from tests.conftest import TINY_LLAMA

CHAT = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
KEY = CheckpointKey(0, 30)


@pytest.fixture(scope="module")
def chat_base(tiny_base: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> BaseModelRef:
    """A model whose own end token is not its template's, and whose own settings of generation spoil every answer."""
    root = tmp_path_factory.mktemp("chat")
    tokenizer = character_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<end>"]})
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(str(root / "tokenizer"))
    spec = {"source": None, "from_config": TINY_LLAMA, "tokenizer": str(root / "tokenizer"), "seed": 3}
    spec |= {"trust_remote_code": False, "directory": str(root / "model")}
    (root / "base.json").write_text(json.dumps(spec))
    build_base(root / "base.json")
    settings = {"eos_token_id": tokenizer.eos_token_id, "min_new_tokens": 9, "suppress_tokens": [20, 21, 22]}
    (root / "model" / "generation_config.json").write_text(json.dumps(settings))
    return tiny_base.model_copy(update={"directory": str(root / "model")})


def chats(count: int, answers: str) -> list[Example]:
    rows = [(f"say {index}", answers[index % len(answers)]) for index in range(count)]
    return [Example(q, a, a, messages=(Message("user", q), Message("assistant", a))) for q, a in rows]


def export(base: BaseModelRef, rollout: Path, test: ScoreSplit, ends: ScoreSplit) -> str:
    """Export the checkpoint as the search does, and return which rows of `test` it answers."""
    root = rollout.parent
    spec = ScoreSpec(
        search_id="test",
        model=base,
        requests=(
            ScoreRequest(key=KEY, directory=str(checkpoint_directory(root, KEY.step)), sub_datasets=(test.name,)),
        ),
        splits=(test,),
        end_splits=(ends.split,),
        batch_tokens=512,
        threads=1,
        device="cpu",
        precision="fp32",
        export_directory=str(root / "champion"),
        output_directory=str(root / "scores"),
    )
    (root / "score_spec.json").write_text(spec.model_dump_json())
    score(root / "score_spec.json")
    scores = CheckpointScores.model_validate_json((root / "scores" / score_file_of(KEY)).read_text())
    return scores.scores[0].correct


def test_the_exported_champion_generates_what_was_scored(
    chat_base: BaseModelRef, make_rollout: Callable[..., Path], tiny_mixture: Mixture, tmp_path: Path
) -> None:
    encoder = Encoder(chat_base.directory, 128, trust_remote_code=False)

    def tokens(split: str, examples: list[Example]) -> Any:
        return tokenize_split(encoder, "chat", split, examples, tmp_path / "tokens", "error")

    train_split = tokens("train", chats(24, "7"))
    draws = tiny_mixture.draws[0].model_copy(update={"name": "chat", "train": train_split})
    lengths = {"epoch_rows": 24, "full_epoch_rows": 24, "epochs": 20.0, "num_rows": 480, "num_steps": 30}
    mixture = tiny_mixture.model_copy(update={"draws": (draws,), "evaluation_offsets": (30,), **lengths})
    rollout = make_rollout("chat", base=chat_base, mixture=mixture, learning_rate=2e-2)
    train(rollout)
    tested = chats(12, "78")
    settings = {"name": "chat", "metric": "exact_match", "max_new_tokens": 24}
    test, plain = (
        ScoreSplit.model_validate(settings | {"split": tokens(name, rows)})
        for name, rows in (("test", tested), ("validation", [Example("say", " 7", "7")]))
    )
    correct = export(chat_base, rollout, test, plain)
    champion = AutoModelForCausalLM.from_pretrained(rollout.parent / "champion")
    tokenizer = AutoTokenizer.from_pretrained(rollout.parent / "champion")
    generated = ""
    for example in tested:
        turn = [{"role": "user", "content": example.prompt}]
        asked = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            told = champion.generate(**asked, max_new_tokens=24)[0, asked["input_ids"].shape[1] :]
        assert told[-1] == tokenizer.convert_tokens_to_ids("<end>")
        generated += str(int(tokenizer.decode(told, skip_special_tokens=True).strip() == example.completion))
    assert generated == correct == "10" * 6
    settings = json.loads((rollout.parent / "champion" / "generation_config.json").read_text())
    assert settings["eos_token_id"] == sorted({tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end>")})
    assert not {"min_new_tokens", "suppress_tokens"} & {*settings}
