"""`msft init`: sub-datasets of a folder, the schema of their rows, and the configuration."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tasks.commands.detection import detect_schema, find_data
from tasks.commands.init import write_draft
from tasks.comparison.grid import configure
from tasks.config.loading import load_config
from tasks.data.sources import read_splits
from tasks.errors import InitError

PAIR = {"prompt": "1+1=", "completion": " 2"}


def write(path: Path, row: dict[str, Any], num_rows: int = 10) -> Path:
    """Write rows whose texts all differ, in the format of the path's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{k: f"{v} {i}" if isinstance(v, str) else v for k, v in row.items()} for i in range(num_rows)]
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])
def test_the_configuration_reads_the_data(tmp_path: Path, ending: str) -> None:
    write(tmp_path / "data" / f"a.{ending}", {"question": "who?", "answer": "me"}, 50)
    write(tmp_path / "data" / "b" / f"train.{ending}", PAIR, 20)
    write(tmp_path / "data" / "b" / f"dev.{ending}", PAIR, 7)
    draft = write_draft(str(tmp_path / "data"), str(tmp_path / "x.yaml"), "none")
    config = load_config(draft.path)
    a, b = (read_splits(config, part) for part in config.mixture.sub_datasets)
    assert {split: len(rows) for split, rows in a.items()} == {"train": 30, "validation": 10, "test": 10}
    assert {split: len(rows) for split, rows in b.items()} == {"train": 16, "validation": 7, "test": 4}
    assert a["train"][0].prompt.startswith("who? ")
    assert a["train"][0].prompt.endswith("\nAnswer:")
    assert a["train"][0].completion.startswith(" me ")


def names_of(folder: Path) -> dict[str, dict[str, str]]:
    return {d.name: {s: str(f.relative_to(folder)) for s, f in d.files.items()} for d in find_data(folder)}


def test_each_file_group_and_folder_is_a_sub_dataset(tmp_path: Path) -> None:
    for file in ("solo", "pair_train", "pair-val", "pair.test", "sub/training", "sub/valid", "two/x", "two/y"):
        write(tmp_path / f"{file}.jsonl", PAIR)
    (tmp_path / "notes.txt").write_text("not data")
    assert names_of(tmp_path) == {
        "pair": {"train": "pair_train.jsonl", "validation": "pair-val.jsonl", "test": "pair.test.jsonl"},
        "solo": {"train": "solo.jsonl"},
        "sub": {"train": "sub/training.jsonl", "validation": "sub/valid.jsonl"},
        "two-x": {"train": "two/x.jsonl"},
        "two-y": {"train": "two/y.jsonl"},
    }


def test_a_folder_of_split_files_is_one_sub_dataset(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        write(tmp_path / "mine" / f"{split}.jsonl", PAIR)
    assert list(names_of(tmp_path / "mine")) == ["mine"]


def test_names_become_valid_and_unique(tmp_path: Path) -> None:
    for name in ("ä b", "ö b", "_c"):
        write(tmp_path / f"{name}.jsonl", PAIR)
    assert sorted(names_of(tmp_path)) == ["b", "b_2", "c"]


@pytest.mark.parametrize(
    ("row", "template", "metric"),
    [
        (PAIR, None, "exact_match"),
        ({"prompt": "1+1=", "completion": "2"}, {"prompt": "{prompt}", "completion": " {completion}"}, "exact_match"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, None, "exact_match"),
        (
            {"Question": "q", "Answer": "steps #### 4"},
            {"prompt": "{Question}\nAnswer:", "completion": " {Answer}"},
            "numeric",
        ),
        (
            {"instruction": "i", "input": "x", "output": "o"},
            {"prompt": "{instruction}\n{input}\nAnswer:", "completion": " {output}"},
            "exact_match",
        ),
        (
            {"question": "q", "choices": ["b", "c"], "answer": "b"},
            {"prompt": "{question}\nAnswer:", "completion": " {answer}", "choices": "choices"},
            "multiple_choice",
        ),
        ({"prompt": "q", "completion": " b", "choices": [" b", " c"]}, None, "multiple_choice"),
        ({"prompt": "essay:", "completion": " word" * 50}, None, "loss"),
        ({"x": "1", "y": "2"}, {"prompt": "{x}\nAnswer:", "completion": " {y}"}, "exact_match"),
    ],
)  # fmt: skip
def test_schema_detection(tmp_path: Path, row: dict[str, Any], template: dict[str, str] | None, metric: str) -> None:
    schema = detect_schema("a", write(tmp_path / "a.jsonl", row))
    assert (schema.template, schema.metric, schema.num_rows) == (template, metric, 10)
    assert bool(schema.remark) == (template is not None)


def test_long_completions_select_by_loss(tmp_path: Path) -> None:
    write(tmp_path / "data" / "a.jsonl", PAIR)
    write(tmp_path / "data" / "b.jsonl", {"prompt": "essay:", "completion": " word" * 50})
    config = load_config(write_draft(str(tmp_path / "data"), str(tmp_path / "x.yaml"), "none").path)
    assert config.evaluation.selection == "loss"
    assert [part.metric for part in config.mixture.sub_datasets] == ["auto", "loss"]


def test_uncommenting_three_lines_gives_the_preset_msft_memory(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / "data" / f"{name}.jsonl", PAIR)
    written = Path(write_draft(str(tmp_path / "data"), str(tmp_path / "x.yaml"), "none").path)
    papers = load_config(str(written))
    assert (papers.training.ema, papers.search.compute_budget_epochs, papers.search.options.model_dump()) == (
        0.99,
        2.0,
        {},
    )
    written.write_text(
        re.sub(r"^  # (compute_budget_epochs|evals_per_epoch|options):", r"  \1:", written.read_text(), flags=re.M)
    )
    uncommented = load_config(str(written))
    assert uncommented == configure(papers, "msft_memory", papers.seed, papers.name)
    assert uncommented != papers


def test_max_length_is_limited_by_the_model(tmp_path: Path) -> None:
    write(tmp_path / "data" / "a.jsonl", PAIR)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"max_position_embeddings": 128}')
    draft = write_draft(str(tmp_path / "data"), str(tmp_path / "x.yaml"), str(tmp_path / "model"))
    assert load_config(draft.path).training.max_length == 128
    assert load_config(draft.path).model.source == "model"


@pytest.mark.parametrize(("num_rows", "batch_size", "at_once"), [(4096, 64, 8), (200, 4, None)])
def test_large_batches_are_split_into_micro_batches(
    tmp_path: Path, num_rows: int, batch_size: int, at_once: int | None
) -> None:
    write(tmp_path / "data" / "a.jsonl", PAIR, num_rows)
    draft = write_draft(str(tmp_path / "data"), str(tmp_path / "x.yaml"), "none")
    training = load_config(draft.path).training
    assert (training.batch_size, training.micro_batch_size) == (batch_size, at_once)
    text = Path(draft.path).read_text()
    Path(draft.path).write_text(text.replace("# precision: bf16", "precision: bf16"))
    assert load_config(draft.path).training.precision == "bf16"


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "data" / "a.jsonl", PAIR)
    (tmp_path / "x.yaml").write_text("mine")
    with pytest.raises(InitError, match="nothing is overwritten"):
        write_draft(str(tmp_path / "data"), str(tmp_path / "x.yaml"), "none")
    assert (tmp_path / "x.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no data file in it"),
        ({"a_test.jsonl": '{"prompt": "a", "completion": " b"}'}, "no file of training rows"),
        ({"a.jsonl": ""}, "no rows"),
        ({"a.jsonl": '{"only": "one"}'}, "the columns only"),
    ],
)
def test_data_without_training_rows_is_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(InitError, match=message):
        write_draft(str(tmp_path), str(tmp_path / "x.yaml"), "none")
