"""Texts after one prompt share its pass, rows share lines, and each has the log-likelihood that it has alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from tasks.contracts import ScoreSplit
from tasks.data.encoder import Encoder
from tasks.data.examples import Example
from tasks.planning.plan import scoring_cost
from tasks.workers.model import shape_of
from tasks.workers.row_trees import GOLD, read_rows
from tasks.workers.scoring import Scorer
from tasks.workers.trees import Query, Tree, grow, pack
from tests.conftest import examples_of

SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip
MODELS: dict[str, tuple[type[PreTrainedConfig], dict[str, Any], bool]] = {
    "llama": (LlamaConfig, SIZES, True),
    "normed queries": (Qwen3Config, SIZES, True),
    "learned positions": (GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4}, True),
    "a wide window": (MistralConfig, SIZES | {"sliding_window": 64}, True),
    "a narrow window": (MistralConfig, SIZES | {"sliding_window": 9}, False),
    "masks that are added": (LlamaConfig, SIZES | {"attn_implementation": "eager"}, False),
    "distances instead of positions": (BloomConfig, {"hidden_size": 32, "n_layer": 2, "n_head": 4}, False),
    "recurrent": (MambaConfig, {"hidden_size": 32, "num_hidden_layers": 2}, False),
}
TEXTS = (" 1", " 12 3", " 12 4", " 5 4 3 2 1")


def choices(count: int) -> list[Example]:
    return [
        Example(f"max {'9' * (i % 5)} {i}?", TEXTS[i % 4], TEXTS[i % 4].strip(), choices=TEXTS) for i in range(count)
    ]


def built(kind: str, encoder: Encoder) -> tuple[Any, bool]:
    config, settings, shares = MODELS[kind]
    torch.manual_seed(0)
    settings = settings | {"vocab_size": len(encoder.tokenizer), "initializer_range": 0.3}
    return AutoModelForCausalLM.from_config(config(**settings), dtype=torch.float32).eval(), shares


def alone(model: Any, prompt: list[int], text: list[int]) -> float:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + text])).logits[0, len(prompt) - 1 : -1]
    return float(logits.log_softmax(-1)[torch.arange(len(text)), torch.tensor(text)].sum())


@pytest.mark.parametrize("kind", MODELS)
def test_rows_that_share_a_pass_score_as_each_text_alone(
    kind: str, encoder: Encoder, make_split: Callable[..., ScoreSplit]
) -> None:
    model, shares = built(kind, encoder)
    splits = [
        make_split("choices", "multiple_choice", choices(10)),
        make_split("texts", "exact_match", examples_of("roman")),
    ]
    scorer = Scorer(model, encoder.tokenizer, 256, shape_of(model), autocast=False)
    plan = scorer.plan(splits)
    trees = [tree for each in plan.passes for line in each.lines for tree in line]
    assert shares == any(not tree.is_chain for tree in trees)
    with torch.inference_mode():
        results = scorer.forward_passes(splits)
    for split, part in zip(splits, results, strict=True):
        for row, result in zip(read_rows(split.split.directory), part, strict=True):
            prompt, length = row["input_ids"][: row["prompt_length"]], row["prompt_length"]
            expected = {i: alone(model, prompt, text) for i, text in enumerate(row["choice_ids"])}
            assert result.choices == pytest.approx(expected, rel=2e-6)
            assert -result.loss_sum == pytest.approx(alone(model, prompt, row["input_ids"][length:]), rel=2e-6)
            assert result.num_labels == len(row["input_ids"]) - length


def test_a_prompt_and_a_common_beginning_are_computed_once() -> None:
    ids, depths, ends, before = grow([1, 2], [[7, 8, 9], [7, 5, 3], [4], [7, 8, 6, 3]])
    assert ids.tolist() == [1, 2, 7, 5, 8, 6]
    assert depths.tolist() == [0, 1, 2, 3, 3, 4]
    assert ends.tolist() == [6, 6, 6, 4, 6, 6]
    assert [nodes.tolist() for nodes in before] == [[1, 2, 4], [1, 2, 3], [1], [1, 2, 4, 5]]


def trees_of(lengths: list[int]) -> list[Tree]:
    trees = []
    for index, length in enumerate(lengths):
        ids, depths, ends, before = grow([3] * length, [[3]])
        trees.append(Tree(ids, depths, ends, (Query(index, before[0], np.array([3])),)))
    return trees


@pytest.mark.parametrize("alone", [False, True])
def test_each_tree_lies_in_one_line_within_the_budget(alone: bool) -> None:
    lengths = np.random.default_rng(0).integers(1, 90, size=300).tolist()
    passes = pack(trees_of([*lengths, 400]), 256, alone=alone)
    assert sorted(query.owner for each in passes for query in each.queries) == list(range(301))
    assert [len(each.lines) for each in passes if each.width == 400] == [1]
    for each in passes:
        assert all(sum(len(tree.ids) for tree in line) <= each.width for line in each.lines)
        assert each.width == 400 or each.width * len(each.lines) <= 256
        assert not alone or all(len(line) == 1 for line in each.lines)


@pytest.mark.parametrize(("budget", "most"), [(512, 1.01), (32768, 1.01)], ids=["a CPU", "a GPU"])
def test_little_of_a_pass_is_padding(budget: int, most: float) -> None:
    lengths = np.random.default_rng(0).lognormal(4.3, 0.6, size=3000).astype(int).clip(8, 640).tolist()
    passes = pack(trees_of(lengths), budget, alone=False)
    assert sum(len(each.lines) * each.width for each in passes) <= most * sum(lengths)


def test_scoring_computes_no_logits_beside_those_it_needs(
    half_taught: Any, encoder: Encoder, make_split: Callable[..., ScoreSplit]
) -> None:
    """The labels of the row, and of a choice what no other text has; 12 begins two of them."""
    splits = [make_split("choices", "multiple_choice", choices(10)), make_split("texts", "loss", examples_of("roman"))]
    scorer = Scorer(half_taught, encoder.tokenizer, 256, shape_of(half_taught), autocast=False)
    computed = []
    head = half_taught.get_output_embeddings()
    with head.register_forward_hook(lambda head, inputs, output: computed.append(output.shape[-2])):
        scorer.score_all(splits)
    needed = 0
    for split in splits:
        for row in read_rows(split.split.directory):
            texts = [row["input_ids"][row["prompt_length"] :], *row["choice_ids"]]
            needed += len({tuple(text[:count]) for text in texts for count in range(len(text))})
    assert sum(computed) == needed == scorer.plan(splits).cost.num_head_positions


def test_the_labelled_choice_is_computed_once(
    half_taught: Any, encoder: Encoder, make_split: Callable[..., ScoreSplit]
) -> None:
    split = make_split("choices", "multiple_choice", choices(4))
    scorer = Scorer(half_taught, encoder.tokenizer, 256, shape_of(half_taught), autocast=False)
    trees = [tree for each in scorer.plan([split]).passes for line in each.lines for tree in line]
    for tree in trees:
        by_text = {query.owner[2]: query.nodes.tolist() for query in tree.queries}
        gold = read_rows(split.split.directory)[tree.queries[0].owner[1]]["gold"]
        assert by_text[GOLD][: len(by_text[gold])] == by_text[gold]


def test_a_plan_prices_what_scoring_charges(
    half_taught: Any, encoder: Encoder, make_split: Callable[..., ScoreSplit]
) -> None:
    """Where no two choices begin alike."""
    texts = (" 1", "7 8 9", "say 5")
    rows = [Example(f"max {'9' * i} 1?", texts[i % 3], texts[i % 3].strip(), choices=texts) for i in range(6)]
    splits = [make_split("choices", "multiple_choice", rows), make_split("texts", "exact_match", examples_of("max"))]
    costs = [scoring_cost(split.split, split.metric, 24).least for split in splits]
    scorer = Scorer(half_taught, encoder.tokenizer, 256, shape_of(half_taught), autocast=False)
    assert scorer.plan(splits).cost == costs[0] + costs[1]


def test_scores_repeat_bit_for_bit_whatever_was_scored_before(
    half_taught: Any, encoder: Encoder, make_split: Callable[..., ScoreSplit]
) -> None:
    """As they have to when a worker is killed and another one goes on."""
    splits = [make_split("choices", "multiple_choice", choices(10)), make_split("max", "numeric", examples_of("max"))]
    first = Scorer(half_taught, encoder.tokenizer, 256, shape_of(half_taught), autocast=False)
    scores = first.score_all(splits)
    later = Scorer(half_taught, encoder.tokenizer, 256, shape_of(half_taught), autocast=False)
    later.score(splits[0])
    assert later.score_all(splits) == scores == first.score_all(splits)
