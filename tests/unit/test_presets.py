"""The mixtures of data/: each file is a valid search, and its templates fit the hub's rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from tasks.config.loading import load_config
from tasks.config.schema import SearchConfig
from tasks.data.examples import Example
from tasks.data.inputs import _check_overlap, _metric_of, _splits_by_role
from tasks.data.sources import SPLITS, read_splits
from tests.unit.hub_rows import HUB_ROWS

DATA = Path(__file__).parents[2] / "data"
SHARED = DATA.parents[1] / "shared" / "real_mixture"
PAPER = [
    *("commonsense_qa", "openbookqa", "aqua_rat", "gsm8k", "sciq"),
    *("arc_easy", "hellaswag", "winogrande", "boolq", "medmcqa"),
]
# Rows of train, validation and test, if not 1,800, 300 and 500.
REAL_ROWS = {
    "aqua_rat": (1800, 300, 254),
    "sciq": (599, 150, 250),
    "hellaswag": (600, 150, 250),
    "arc_challenge": (1112, 296, 500),
    "social_iqa": (1125, 300, 500),
    "qasc": (667, 150, 250),
    "svamp": (599, 100, 300),
    "mawps": (1572, 201, 221),
}


def _load(name: str, **changes: Any) -> SearchConfig:
    config = load_config(str(DATA / f"{name}.yaml"))
    return SearchConfig.model_validate(config.model_dump(mode="json") | changes)


def _names(name: str) -> list[str]:
    return [sub_dataset.name for sub_dataset in _load(name).mixture.sub_datasets]


@pytest.mark.parametrize("path", sorted(DATA.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_file_is_a_search_named_as_the_file(path: Path) -> None:
    assert load_config(str(path)).name == path.stem


@pytest.mark.parametrize(("small", "large"), [("paper5", "paper10"), ("paper10", "paper15"), ("real10", "real20")])
def test_a_larger_mixture_contains_the_smaller_one(small: str, large: str) -> None:
    few, many = _load(small), _load(large)
    num = len(few.mixture.sub_datasets)
    assert many.mixture.sub_datasets[:num] == few.mixture.sub_datasets
    assert len(many.mixture.sub_datasets) > num
    assert (many.training, many.evaluation, many.search) == (few.training, few.evaluation, few.search)


def test_the_paper_s_mixture_and_settings() -> None:
    config = _load("paper10")
    assert _names("paper10") == _names("real10") == PAPER
    assert {sub_dataset.max_rows.train for sub_dataset in config.mixture.sub_datasets} == {1800}
    assert (config.training.learning_rate, config.training.batch_size) == (1e-5, 64)
    assert (config.search.max_epochs, config.search.evals_per_epoch) == (10, 4)
    assert [len(_names(name)) for name in ("paper5", "paper15", "real20")] == [5, 15, 20]


def test_the_papers_protocol_is_the_command_in_its_file() -> None:
    text = (DATA / "paper10.yaml").read_text()
    command = next(line for line in text.splitlines() if "search.protocol=paper" in line)
    overrides = [word for word in command.split() if "=" in word]
    config = load_config(str(DATA / "paper10.yaml"), overrides)
    assert (config.search.protocol, config.search.rule) == ("paper", "paper")
    assert config.search.optimizer_on_rollback == "reset"


@pytest.mark.parametrize("name", _names("paper15"))
def test_rows_of_the_hub_schema_become_the_expected_examples(name: str, tmp_path: Path) -> None:
    config = _load("paper15", seed=0)
    [sub_dataset] = [s for s in config.mixture.sub_datasets if s.name == name]
    assert sub_dataset.splits.test in ("test", "validation")
    assert sub_dataset.max_rows.test is None
    rows, expected = HUB_ROWS[name]
    Dataset.from_list(rows).to_parquet(tmp_path / "train.parquet")
    local = sub_dataset.model_dump(mode="json") | {
        "hub": str(tmp_path),  # a folder in the hub's layout is read like a hub id
        "hub_config": None,
        "revision": None,
        "splits": {"train": "train", "validation": "train", "test": None},
    }
    [local_one] = _load("paper15", mixture={"sub_datasets": [local]}).mixture.sub_datasets
    examples = read_splits(config, local_one)["train"]
    assert [(e.prompt, e.completion, e.choices) for e in examples] == expected
    assert _metric_of(config, local_one, examples) == ("numeric" if name == "gsm8k" else "multiple_choice")


@pytest.mark.parametrize("name", ["real10", "real20"])
def test_real_rows_are_complete_and_in_one_split_only(name: str) -> None:
    if not SHARED.is_dir():
        pytest.skip(f"no {SHARED}: the benchmark rows of data/{name}.yaml are not part of this repository")
    config = _load(name)
    splits: dict[str, dict[str, list[Example]]] = {}
    for sub_dataset in config.mixture.sub_datasets:
        splits[sub_dataset.name] = _splits_by_role(config, sub_dataset)
    _check_overlap(config, splits)
    for sub_dataset in config.mixture.sub_datasets:
        rows = splits[sub_dataset.name]
        num_rows = tuple(len(rows[split]) for split in SPLITS)
        assert num_rows == REAL_ROWS.get(sub_dataset.name, (1800, 300, 500)), sub_dataset.name
        is_number = sub_dataset.name in ("gsm8k", "svamp", "mawps")
        for split in SPLITS:
            metric = _metric_of(config, sub_dataset, rows[split])
            assert metric == ("numeric" if is_number else "multiple_choice"), (sub_dataset.name, split)
