"""Splits that are carved or sampled: by seed, whole prompts at a time, never out of test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks.config.loading import parse_config
from tasks.data.examples import Example
from tasks.data.sources import read_splits
from tasks.errors import DataError

NO_TEST = {"validation": {"carve": 6}, "test": None}


def _read(directory: Path, seed: int = 0, **settings: Any) -> dict[str, list[Example]]:
    sub_dataset = {"name": "sub", "path": str(directory), **settings}
    raw = {
        "name": "test",
        "seed": seed,
        "model": {"source": "none"},
        "mixture": {"sub_datasets": [sub_dataset]},
        "search": {"max_epochs": 1},
    }
    config = parse_config(raw, "test")
    return read_splits(config, config.mixture.sub_datasets[0])


def _write(directory: Path, split: str, prompts: Sequence[str]) -> None:
    rows = [{"prompt": prompt, "completion": f" {index}"} for index, prompt in enumerate(prompts)]
    (directory / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _prompts(examples: Sequence[Example]) -> list[str]:
    return [example.prompt for example in examples]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder of 20 prompts with two train rows each, and 5 test rows."""
    _write(tmp_path, "train", [f"train {i % 20}" for i in range(40)])
    _write(tmp_path, "test", [f"test {i}" for i in range(5)])
    return tmp_path


def test_carving_takes_whole_prompts_and_loses_no_row(folder: Path) -> None:
    splits = _read(folder, splits=NO_TEST)
    train, validation = _prompts(splits["train"]), _prompts(splits["validation"])
    assert len(validation) == 6
    assert set(train) & set(validation) == set()
    assert sorted(train + validation) == sorted(f"train {i % 20}" for i in range(40))


def test_an_odd_number_is_rounded_up_to_whole_prompts(folder: Path) -> None:
    splits = _read(folder, splits={"validation": {"carve": 5}, "test": None})
    assert (len(splits["train"]), len(splits["validation"])) == (34, 6)


def test_carving_goes_by_the_seed(folder: Path) -> None:
    assert _read(folder, splits=NO_TEST) == _read(folder, splits=NO_TEST)
    assert _read(folder, splits=NO_TEST) != _read(folder, seed=1, splits=NO_TEST)


def test_carving_leaves_test_alone(folder: Path) -> None:
    splits = _read(folder, splits={"validation": {"carve": 6}})
    assert _prompts(splits["test"]) == [f"test {i}" for i in range(5)]
    assert all(prompt.startswith("train") for prompt in _prompts(splits["validation"]))


def test_a_carved_test_and_validation_share_no_prompt(folder: Path) -> None:
    splits = _read(folder, splits={"validation": {"carve": 6}, "test": {"carve": 8}})
    sets = [set(_prompts(splits[split])) for split in ("train", "validation", "test")]
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [26, 6, 8]
    assert len(set.union(*sets)) == sum(len(one) for one in sets) == 20


def test_another_validation_size_leaves_a_carved_test_as_it_is(folder: Path) -> None:
    small = _read(folder, splits={"validation": {"carve": 2}, "test": {"carve": 8}})
    large = _read(folder, splits={"validation": {"carve": 16}, "test": {"carve": 8}})
    assert small["test"] == large["test"]


@pytest.mark.parametrize("count", [40, 39, 1000])
def test_carving_all_rows_is_refused(folder: Path, count: int) -> None:
    with pytest.raises(DataError, match=rf"40 train rows, {count} to carve"):
        _read(folder, splits={"validation": {"carve": count}, "test": None})


def test_max_rows_takes_a_sample_by_seed_in_the_file_s_order(folder: Path) -> None:
    whole = _read(folder, splits=NO_TEST)
    limits = {"train": 10, "validation": 4}
    splits = _read(folder, splits=NO_TEST, max_rows=limits)
    assert splits == _read(folder, splits=NO_TEST, max_rows=limits)
    assert {split: len(rows) for split, rows in splits.items()} == limits
    for split, rows in splits.items():
        places = [whole[split].index(row) for row in rows]
        assert places == sorted(set(places))


def test_max_rows_samples_differ_between_seeds(folder: Path) -> None:
    _write(folder, "validation", ["validation"])
    first, second = (_read(folder, seed=seed, max_rows={"train": 10})["train"] for seed in (0, 1))
    assert first != second


def test_max_rows_above_the_number_of_rows_changes_nothing(folder: Path) -> None:
    assert _read(folder, splits=NO_TEST, max_rows={"train": 34}) == _read(folder, splits=NO_TEST)
