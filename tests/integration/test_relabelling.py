"""The rows of a sub-dataset get the answers of a checkpoint, by the scoring worker."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tasks.config.schema import SearchConfig
from tasks.contracts import SearchRun
from tasks.data.inputs import load_inputs
from tasks.data.tokenization import read_tokenized
from tasks.opening import reference_to
from tasks.record.journal import read_history
from tasks.record.ownership import directory_of
from tasks.relabelling import relabel_rows


def test_rows_keep_the_labels_that_the_checkpoint_gives(searched: Any, tmp_path: Path) -> None:
    config: SearchConfig = searched[0]
    original = Path(directory_of(config))
    directory = tmp_path / original.name
    shutil.copytree(original, directory)
    search = SearchRun(ref=reference_to(config, str(directory)), config=config, inputs=load_inputs(config))
    champion = searched[1]
    event = relabel_rows.fn(search, 3, "cmp", champion.key)
    part = next(part for part in search.inputs.sub_datasets if part.name == "cmp")
    assert event.split is not None
    assert event.split.num_rows + event.num_left_out == part.train.num_rows
    assert event.num_left_out < part.train.num_rows
    assert event.cost.num_tokens >= part.train.num_tokens
    left = read_tokenized(event.split.model_copy(update={"directory": str(directory / event.split.directory)}))
    rows = read_tokenized(part.train).to_list()
    assert all(row in rows for row in left.to_list())
    recorded = read_history(str(directory)).events[-1]
    assert recorded == event
