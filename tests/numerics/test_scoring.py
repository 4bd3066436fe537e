"""Scores are those of the obvious, slow way: one row at a time, every choice, every token generated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, MambaConfig, PreTrainedConfig

from tasks.algorithm.answers import number_in
from tasks.contracts import ScoreSplit
from tasks.data.encoder import Encoder
from tasks.data.examples import Example
from tasks.workers.generation import Generator, Goal, generated_tokens
from tasks.workers.model import shape_of
from tasks.workers.scoring import Scorer
from tests.conftest import examples_of

MakeSplit = Callable[..., ScoreSplit]


@pytest.fixture
def scorer(half_taught: Any, encoder: Encoder) -> Scorer:
    return Scorer(half_taught, encoder.tokenizer, 512, shape_of(half_taught), autocast=False)


def log_likelihood(model: Any, encoder: Encoder, prompt: str, text: str) -> float:
    prompt_ids = encoder.tokenizer(prompt)["input_ids"]
    ids = encoder.tokenizer(prompt + text)["input_ids"]
    with torch.no_grad():
        log_probabilities = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(log_probabilities[i - 1, ids[i]]) for i in range(len(prompt_ids), len(ids)))


@pytest.mark.parametrize("lead", ["", " it is "], ids=["choices of one token", "choices of many tokens"])
def test_multiple_choice_takes_the_most_likely_completion(
    half_taught: Any, encoder: Encoder, scorer: Scorer, make_split: MakeSplit, lead: str
) -> None:
    examples = [
        Example(f"q{index} of {index * 7 % 10}:", lead + "ABCD"[index % 4], "ABCD"[index % 4],
                choices=tuple(lead + letter for letter in "ABCD"))
        for index in range(40)
    ]  # fmt: skip
    expected = ""
    for example in examples:
        sums = [log_likelihood(half_taught, encoder, example.prompt, choice) for choice in example.choices]
        expected += str(int(example.choices[sums.index(max(sums))] == example.completion))
    score = scorer.score(make_split("letters", "multiple_choice", examples))
    assert score.correct == expected
    assert 0 < expected.count("1") < 40
    assert score.accuracy == expected.count("1") / 40


def test_normalized_choices_are_compared_by_their_characters(
    half_taught: Any, encoder: Encoder, scorer: Scorer, make_split: MakeSplit
) -> None:
    """As acc_norm of lm-evaluation-harness, whose choices have no space before them."""
    texts = (" 1", " 12 3", " 5 4 3 2 1")
    examples = [Example(f"max {index} 9?", texts[index % 3], texts[index % 3], choices=texts) for index in range(30)]
    chosen: dict[str, list[str]] = {"multiple_choice": [], "multiple_choice_normalized": []}
    for example in examples:
        sums = [log_likelihood(half_taught, encoder, example.prompt, text + "<eos>") for text in texts]
        means = [value / len(text.strip()) for value, text in zip(sums, texts, strict=True)]
        chosen["multiple_choice"].append(texts[sums.index(max(sums))])
        chosen["multiple_choice_normalized"].append(texts[means.index(max(means))])
    assert chosen["multiple_choice"] != chosen["multiple_choice_normalized"]
    for metric, answers in chosen.items():
        expected = "".join(str(int(a == e.completion)) for a, e in zip(answers, examples, strict=True))
        assert scorer.score(make_split(metric, metric, examples)).correct == expected


def generated(model: Any, encoder: Encoder, prompt: str) -> str:
    ids = torch.tensor([encoder.tokenizer(prompt)["input_ids"]])
    output = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False,
        pad_token_id=encoder.tokenizer.pad_token_id, eos_token_id=encoder.tokenizer.eos_token_id,
    )  # fmt: skip
    text: str = encoder.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
    return text


def test_exact_match_is_that_of_generating_every_row(
    half_taught: Any, encoder: Encoder, scorer: Scorer, make_split: MakeSplit
) -> None:
    examples = examples_of("max") + examples_of("roman")
    texts = [generated(half_taught, encoder, example.prompt) for example in examples]
    expected = "".join(str(int(t.strip() == e.completion.strip())) for t, e in zip(texts, examples, strict=True))
    score = scorer.score(make_split("mixed", "exact_match", examples))
    assert score.correct == expected
    assert 0 < expected.count("1") < len(examples)


def test_numeric_answers_are_read_from_the_whole_generated_text(
    half_taught: Any, encoder: Encoder, scorer: Scorer, make_split: MakeSplit
) -> None:
    """No completion is worded as the model words it, and every third answer is one that it does not give."""
    examples = [
        Example(e.prompt, f"say{e.completion}", "999" if index % 3 == 0 else e.answer)
        for index, e in enumerate(examples_of("max"))
    ]
    numbers = [number_in(generated(half_taught, encoder, example.prompt)) for example in examples]
    expected = "".join(
        str(int(n is not None and n == number_in(e.answer))) for n, e in zip(numbers, examples, strict=True)
    )
    assert scorer.score(make_split("exact", "exact_match", examples)).correct == "0" * len(examples)
    assert scorer.score(make_split("numeric", "numeric", examples)).correct == expected
    assert 0 < expected.count("1") < len(examples) * 2 / 3


def test_validation_loss_is_the_mean_over_completion_tokens(
    half_taught: Any, encoder: Encoder, scorer: Scorer, make_split: MakeSplit
) -> None:
    examples = examples_of("cmp")
    total, count = 0.0, 0
    for example in examples:
        row = encoder.encode(example)
        with torch.no_grad():
            logits = half_taught(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(logits, torch.tensor(row["input_ids"][1:]), reduction="none")
        mask = torch.tensor(row["loss_mask"][1:]) == 1
        total, count = total + float(losses[mask].sum()), count + int(mask.sum())
    score = scorer.score(make_split("loss", "loss", examples))
    assert score.loss == pytest.approx(total / count, rel=1e-5)
    assert score.accuracy is None
    assert score.correct == ""


def test_a_smaller_batch_changes_no_score(half_taught: Any, encoder: Encoder, make_split: MakeSplit) -> None:
    split = make_split("batches", "exact_match", examples_of("max"))
    scores = [
        Scorer(half_taught, encoder.tokenizer, batch, shape_of(half_taught), autocast=False).score(split)
        for batch in (64, 4096)
    ]
    assert scores[0].correct == scores[1].correct
    assert scores[0].loss == pytest.approx(scores[1].loss, rel=1e-6)


@pytest.mark.parametrize(
    ("config", "times"),
    [
        # 49,152 tokens against 2 × 30 layers × 3 heads × 64
        (LlamaConfig(vocab_size=49152, hidden_size=576, num_hidden_layers=30, num_attention_heads=9,
                     num_key_value_heads=3), 8),
        (LlamaConfig(vocab_size=100, hidden_size=64, num_hidden_layers=2, num_attention_heads=2), 1),
        (MambaConfig(vocab_size=50000), 1),
    ],
    ids=["SmolLM2-135M", "a small vocabulary", "no attention"],
)  # fmt: skip
def test_generation_fills_the_memory_that_logits_would(config: PreTrainedConfig, times: int) -> None:
    assert generated_tokens(512, config) == 512 * times


def test_more_rows_are_generated_at_once_and_change_no_score(
    half_taught: Any, encoder: Encoder, make_split: MakeSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = []
    continue_rows = Generator._continue

    def counting(generator: Generator, begun: list[list[int]], limits: list[int]) -> list[list[int]]:
        batches.append(len(begun))
        return continue_rows(generator, begun, limits)

    monkeypatch.setattr(Generator, "_continue", counting)
    split, scores = make_split("batches", "numeric", examples_of("max")), []
    for vocab_size in (half_taught.config.vocab_size, 50000):  # as if it were that of a real model
        monkeypatch.setattr(half_taught.config, "vocab_size", vocab_size)
        scorer = Scorer(half_taught, encoder.tokenizer, 64, shape_of(half_taught), autocast=False)
        scores.append(scorer.score(split))
        batches.append(0)
    *small, _, large, _ = batches
    assert len(small) > 1
    assert sum(small) == large
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    ("text", "answer", "is_numeric", "expected"),
    [
        (" 12 ", "12", False, True),
        ("12.", "12", False, False),
        ("#### 12.0", "12", True, True),
        ("", "12", True, False),
    ],
)
def test_a_generation_meets_its_goal(text: str, answer: str, is_numeric: bool, expected: bool) -> None:
    assert Goal(answer, is_numeric).is_met_by(text) is expected
