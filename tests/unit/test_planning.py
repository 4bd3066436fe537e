"""Plans: cost of a search before it runs, its price, and its comparison with the actual cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tasks.algorithm.costs import ModelShape
from tasks.algorithm.state import CheckpointKey
from tasks.config.loading import parse_config
from tasks.config.schema import LoraConfig, SearchConfig
from tasks.contracts import BaseModelRef, EvaluationCost, Inputs, Metric, SplitRef, SubDatasetRef
from tasks.data.model_size import measure_model
from tasks.data.tokenization import _features
from tasks.planning.plan import make_plan, scoring_cost, training_cost
from tasks.planning.pricing import measured_speed, price, stated_speed
from tasks.record.events import CheckpointSize
from tasks.record.journal import append_event
from tasks.record.plan import Plan, SearchCost, compare_with_plan
from tests.unit.made_events import CONFIG, decided, interval, started

LENGTH, PROMPT = 5, 3


def split_of(directory: Path, num_rows: int, choices: list[list[int]] | None = None) -> SplitRef:
    """Write rows of 5 tokens; 3 are the prompt."""
    import datasets

    row = {
        "input_ids": [1] * LENGTH,
        "loss_mask": [0, 0, 0, 1, 1],
        "prompt_length": PROMPT,
        "choice_ids": choices or [],
        "choices": [str(choice) for choice in choices or []],
        "gold": 0 if choices else -1,
        "completion": "x",
        "answer": "x",
        "num_tokens": LENGTH,
    }
    datasets.Dataset.from_list([row] * num_rows, features=_features()).save_to_disk(str(directory))
    return SplitRef(directory=str(directory), num_rows=num_rows, num_tokens=LENGTH * num_rows, sha256="")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModelRef:
    """A Llama of 1 layer: embedding 10 × 4 (tied), q k v o 4 × 4, three of 8 × 4, three norms of 4."""
    directory = tmp_path_factory.mktemp("base")
    config = {"model_type": "llama", "vocab_size": 10, "hidden_size": 4, "num_attention_heads": 2}
    config |= {"num_hidden_layers": 1, "tie_word_embeddings": True, "intermediate_size": 8}
    (directory / "config.json").write_text(json.dumps(config))
    layer = "model.layers.0."
    sizes = {f"{layer}self_attn.{letter}_proj.weight": (4, 4) for letter in "qkvo"}
    sizes |= {f"{layer}mlp.{part}_proj.weight": (8, 4) for part in ("gate", "up")}
    sizes |= {f"{layer}mlp.down_proj.weight": (4, 8), "model.embed_tokens.weight": (10, 4)}
    sizes |= {f"{layer}{name}.weight": (4,) for name in ("input_layernorm", "post_attention_layernorm")}
    sizes |= {"model.norm.weight": (4,)}
    save_file({n: np.zeros(s, np.float32) for n, s in sizes.items()}, directory / "model.safetensors")
    return BaseModelRef(
        directory=str(directory), sha256="", trust_remote_code=False, attn_implementation=None,
        gradient_checkpointing=False, lora=None, seed=0, vocab_size=10, max_positions=None,
    )  # fmt: skip


BODY, HEAD = 4 * 16 + 3 * 32 + 3 * 4, 40


def config_of(**search: Any) -> SearchConfig:
    return parse_config(
        {
            "name": "test",
            "model": {"source": "none"},
            "mixture": {"sub_datasets": [{"name": name, "path": name} for name in "abcd"]},
            "training": {"batch_size": 8},
            "search": {"max_epochs": 100, **search},
        },
        "test",
    )


@pytest.fixture(scope="module")
def inputs(base: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Four sub-datasets of 16 training, 6 validation and 12 test rows."""
    folder = tmp_path_factory.mktemp("rows")
    train, validation = split_of(folder / "train", 16), split_of(folder / "validation", 6)
    parts = [
        SubDatasetRef(
            name=name, metric="exact_match", max_new_tokens=4, train=train, validation=validation,
            test_sha256="", num_test_rows=12,
        )
        for name in "abcd"
    ]  # fmt: skip
    return Inputs(model=base, sub_datasets=tuple(parts))


def test_model_size_is_read_from_the_files(base: BaseModelRef) -> None:
    size = measure_model(base)
    assert size.shape == ModelShape(BODY, HEAD, 1.0, attention_width=1 * 2 * 2)
    assert size.num_parameters == size.num_trained == BODY + HEAD


def test_adapters_add_rank_times_both_dimensions(base: BaseModelRef) -> None:
    every = measure_model(base.model_copy(update={"lora": LoraConfig(r=2)}))
    assert every.num_trained == 2 * (4 * (4 + 4) + 3 * (8 + 4))
    assert every.num_parameters == BODY + HEAD + every.num_trained
    two = LoraConfig(r=2, target_modules=("q_proj", "v_proj"))
    assert measure_model(base.model_copy(update={"lora": two})).num_trained == 2 * 2 * (4 + 4)


def test_equal_sizes_cost_c_times_n_plus_1_halves(inputs: Inputs) -> None:
    """C = 2, N = 4: rounds of 64, 48, 32 and 16 rows per epoch; 8 evaluations each, and the base model."""
    plan = make_plan(config_of(), inputs)
    work = plan.expected
    assert work.num_rounds == 4
    assert work.num_epochs == 2 * (4 + 1) / 2
    assert work.num_examples == 2 * (64 + 48 + 32 + 16)
    assert work.num_steps == work.num_examples / 8
    # The last round has 4 steps, so at most 4 evaluations.
    assert work.num_checkpoints == 1 + 8 + 8 + 8 + 4
    assert work.training_tokens == pytest.approx(LENGTH * work.num_examples)
    flops = 3 * 2 * (BODY * LENGTH + HEAD * 2) + 3 * 4 * 4 * LENGTH**2
    assert work.training_flops == pytest.approx(flops * work.num_examples)
    gold = 2 * (BODY * LENGTH + HEAD * 2) + 4 * 4 * LENGTH**2
    assert work.evaluation_flops == pytest.approx(gold * 4 * 6 * work.num_checkpoints)
    assert work.test_flops == pytest.approx(gold * 4 * 12)
    num_weights = BODY + HEAD
    assert work.bytes_written == num_weights * (4 + 12 * (work.num_checkpoints - 1))
    # A round's eight checkpoints, its start, and the champion's weights.
    assert work.disk_bytes == num_weights * (12 * (8 + 1) + 4)


def test_without_overfitting_the_whole_budget_is_spent(inputs: Inputs) -> None:
    plan = make_plan(config_of(max_epochs=6), inputs)
    assert plan.least.num_epochs == plan.expected.num_epochs == 5
    assert plan.most.num_epochs == 6
    assert plan.most.num_rounds > plan.expected.num_rounds
    generated = (PROMPT + 4) * 4 * 6
    assert plan.most.evaluation_tokens == pytest.approx((LENGTH * 4 * 6 + generated) * plan.most.num_checkpoints)


def test_max_rounds_limits_every_simulation(inputs: Inputs) -> None:
    plan = make_plan(config_of(max_rounds=2), inputs)
    assert (plan.least.num_rounds, plan.most.num_rounds) == (2, 2)
    assert (plan.expected.num_epochs, plan.most.num_epochs) == (2 + 1.5, 4)


def test_choices_share_their_rows_pass(tmp_path: Path) -> None:
    """The labelled choice adds nothing, another all but its last token."""
    one = scoring_cost(split_of(tmp_path / "one", 6, [[1], [2]]), "multiple_choice", 9)
    assert one.most.num_tokens == one.least.num_tokens == 6 * LENGTH
    two = scoring_cost(split_of(tmp_path / "two", 6, [[1], [2, 3, 4]]), "multiple_choice", 9)
    assert two.least.num_tokens == 6 * (LENGTH + 2)
    assert two.least.num_head_positions == 6 * (2 + 2)
    assert two.least.num_pairs == 6 * (LENGTH**2 + (PROMPT + 2) ** 2 - PROMPT**2)


@pytest.mark.parametrize(("metric", "share"), [("exact_match", 0.0), ("numeric", 0.5), ("loss", 0.0)])
def test_generation_is_bounded_by_all_rows(tmp_path: Path, metric: Metric, share: float) -> None:
    split = split_of(tmp_path / "rows", 6)
    cost, gold = scoring_cost(split, metric, 4), training_cost(split)
    most = 0 if metric == "loss" else 6 * (PROMPT + 4)
    assert cost.least == gold
    assert cost.expected.num_tokens == gold.num_tokens + share * most
    assert cost.most.num_tokens == gold.num_tokens + most


def cost_of(**values: Any) -> SearchCost:
    return SearchCost.model_validate({name: 0 for name in SearchCost.model_fields} | values)


def test_price_includes_idle_devices() -> None:
    work = cost_of(training_flops=7.2e15, evaluation_flops=3.0e15, test_flops=0.6e15)
    speed = stated_speed(1e12)
    one, four = price(work, speed, 1, 2.0), price(work, speed, 4, 2.0)
    assert (one.hours, one.gpu_hours, one.money) == (3.0, 3.0, 6.0)
    assert (four.hours, four.gpu_hours, four.money) == (1.5, 6.0, 12.0)
    assert price(work, speed, 4, None).money is None


def test_actual_cost_is_compared_with_the_plan() -> None:
    """Two rounds of 4 steps, of which the second is discarded."""
    cost = {"num_tokens": 40, "num_examples": 8, "flops": 9.0, "seconds": 1.0}
    events = [
        decided(
            number,
            (0, 4),
            intervals=(interval(CheckpointKey(number, 4), **cost),),
            checkpoints=(CheckpointSize(key=CheckpointKey(number, 4), num_bytes=77),),
            evaluation=EvaluationCost(num_tokens=7, num_examples=3, flops=5.0, seconds=0.25),
        )
        for number in (0, 1)
    ]
    work = cost_of(num_steps=6, training_tokens=70)
    plan = Plan(num_sub_datasets=2, num_parameters=1, num_trained=1, least=work, expected=work, most=work)
    rows = {row.quantity: row for row in compare_with_plan(plan, events)}
    assert (rows["num_steps"].expected, rows["num_steps"].actual) == (6, 8)
    assert (rows["training_tokens"].expected, rows["training_tokens"].actual) == (70, 80)
    assert rows["bytes_written"].actual == 154
    assert rows["evaluation_flops"].actual == 10.0
    assert rows["num_checkpoints"].actual == 3


@pytest.mark.parametrize("training", [{"num_processes": 2}, {"num_processes": 1, "machines": 2}])
def test_speed_is_that_of_the_newest_search_of_the_model(tmp_path: Path, training: dict[str, int]) -> None:
    assert measured_speed(str(tmp_path), "abc") is None
    config = CONFIG | {"training": training}
    key = CheckpointKey(0, 4)
    parts = tuple(interval(key, flops=8e9, seconds=seconds) for seconds in (2.0, 6.0))
    trained = decided(0, (0, 4), intervals=parts, evaluation=EvaluationCost(flops=3e9, seconds=1.0))
    for name, model in (("other", "x"), ("one", "abc")):
        (tmp_path / name).mkdir()
        for event in (started(config=config, content={"base model": model}), trained):
            append_event(str(tmp_path / name), event)
    speed = measured_speed(str(tmp_path), "abc")
    assert speed is not None
    assert (speed.training_flops_per_s, speed.evaluation_flops_per_s) == (1e9, 3e9)
    assert speed.source.endswith("one")


def test_sft_costs_its_budget_and_ema_a_copy_of_the_weights(inputs: Inputs) -> None:
    plan = make_plan(config_of(max_epochs=6, method="sft"), inputs)
    assert plan.least.num_epochs == plan.expected.num_epochs == plan.most.num_epochs == 6
    config = config_of(max_epochs=6, method="sft")
    averaged = config.model_copy(update={"training": config.training.model_copy(update={"ema": 0.9})})
    num_weights = BODY + HEAD
    with_average = make_plan(averaged, inputs).least
    assert with_average.bytes_written - plan.least.bytes_written == num_weights * 4 * plan.least.num_checkpoints
    # The base model, the two newest checkpoints, of the others the weights that are scored, and the champion twice.
    num_others = plan.least.num_checkpoints - 3
    assert plan.least.disk_bytes == num_weights * (4 + 12 * 2 + 4 * num_others + 8)
    assert with_average.disk_bytes == num_weights * (8 + 16 * 2 + 4 * num_others + 8)


def test_an_averaged_champion_costs_a_scoring_of_each_trial(inputs: Inputs) -> None:
    plain, soup = (make_plan(config_of(max_epochs=6, method="sft", champion=c), inputs).least for c in ("best", "soup"))
    assert soup.num_checkpoints == plain.num_checkpoints
    more = (2 * plain.num_checkpoints - 1) / plain.num_checkpoints
    assert soup.evaluation_flops == pytest.approx(plain.evaluation_flops * more)
    kept = make_plan(config_of(champion="soup"), inputs).expected.disk_bytes
    # The third round is the fullest: of the 16 checkpoints of those before, the weights stay.
    assert kept - make_plan(config_of(), inputs).expected.disk_bytes == (BODY + HEAD) * (4 * 8 * 2)


def test_dynamix_sft_includes_its_look_aheads(inputs: Inputs) -> None:
    """Six epochs are 48 steps: 12 updates, each a step and one more pass on a batch of 8 of each sub-dataset."""
    plain = make_plan(config_of(max_epochs=6, method="sft"), inputs).expected
    config = config_of(max_epochs=6, method="dynamix_sft", options={"every_steps": 4})
    work = make_plan(config, inputs).expected
    forward = 2 * (BODY * LENGTH + HEAD * 2) + 4 * 4 * LENGTH**2
    assert work.num_steps == plain.num_steps == 48
    assert work.training_flops - plain.training_flops == pytest.approx((3 + 1) * forward * 12 * 4 * 8)
