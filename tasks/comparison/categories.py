"""Category split: one sub-dataset becomes one sub-dataset per category of a column."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.config.loading import change_config
from tasks.config.schema import SearchConfig
from tasks.config.sub_datasets import SubDatasetConfig
from tasks.data.sources import read_columns
from tasks.data.values import json_text
from tasks.errors import ConfigError, DataError
from tasks.runtime.files import write_file

logger = logging.getLogger(__name__)

Rows = list[Mapping[str, Any]]


def split_by_column(config: SearchConfig, name: str, column: str) -> SearchConfig:
    """Return the configuration with one sub-dataset replaced by one per value of a column of its rows.

    The rows are written to files under `output_root`. A category without rows in one of the splits is left out with a
    warning.

    Raises:
        ConfigError: the sub-dataset is unknown, generated, or has carved splits; or the mixture names proportions.
        DataError: a row lacks the column, or no category has rows in every split.
    """
    sub_dataset = _sub_dataset(config, name)
    splits = {split: text for split, text in sub_dataset.splits if text is not None}
    rows = {split: _by_category(config, sub_dataset, split, text, column) for split, text in splits.items()}
    categories = sorted(set().union(*rows.values()))
    whole = [category for category in categories if all(category in by for by in rows.values())]
    if len(whole) < len(categories):
        missing = ", ".join(sorted(set(categories) - set(whole)))
        logger.warning(f"{name} by {column}: left out, no rows in one of the splits: {missing}")
    if not whole:
        raise DataError(
            name,
            f"column {column}",
            got=f"categories {', '.join(categories)}",
            expected="one with rows in each split",
            fix="choose another column",
        )
    kept = sub_dataset.model_dump(mode="json") | {"hub": None, "hub_config": None, "revision": None}
    kept |= {"splits": {split: split for split in splits} | ({} if "test" in splits else {"test": None})}
    parts = []
    for category in whole:
        folder = _write({split: by[category] for split, by in rows.items()}, config, f"{name}-{category}")
        parts.append(kept | {"name": f"{name}-{category}", "path": str(folder.resolve())})
    mixture: list[dict[str, Any]] = []
    for other in config.mixture.sub_datasets:
        mixture += parts if other.name == name else [other.model_dump(mode="json")]
    return change_config(config, {"mixture.sub_datasets": mixture}, f"{name} by {column}")


def _sub_dataset(config: SearchConfig, name: str) -> SubDatasetConfig:
    found = [sub_dataset for sub_dataset in config.mixture.sub_datasets if sub_dataset.name == name]
    where = f"split {name}"
    if not found:
        raise ConfigError(
            where, [f"no such sub-dataset; there are {', '.join(s.name for s in config.mixture.sub_datasets)}"]
        )
    if found[0].synthetic is not None:
        raise ConfigError(where, ["generated rows have no columns; name a sub-dataset with path or hub"])
    if any(not isinstance(text, str | None) for _, text in found[0].splits):
        raise ConfigError(where, ["its splits are carved; name a file for each, so that all categories share them"])
    if isinstance(config.mixture.proportions, dict):
        raise ConfigError(where, ["mixture.proportions names weights; set by_size or equal"])
    return found[0]


def _by_category(
    config: SearchConfig, sub_dataset: SubDatasetConfig, split: str, text: str, column: str
) -> dict[str, Rows]:
    """Return the rows by category; category names are made valid sub-dataset names."""
    rows, where = read_columns(config, sub_dataset, split, text)
    found: dict[str, Rows] = {}
    for index, row in enumerate(rows):
        if isinstance(row, DataError):
            raise row
        if row.get(column) is None:
            raise DataError(
                sub_dataset.name,
                f"{where} row {index}",
                got=f"the columns {', '.join(row)}",
                expected=f"a value in {column}",
                fix="name another column, or fix the row",
            )
        found.setdefault(re.sub(r"[^A-Za-z0-9_.-]+", "_", str(row[column])).strip("_"), []).append(row)
    return found


def _write(rows: Mapping[str, Rows], config: SearchConfig, name: str) -> Path:
    """Write the splits of one category as JSON lines to a folder named by a hash of them, and return it."""
    texts = {split: "".join(json_text(row) + "\n" for row in own) for split, own in rows.items()}
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(config.output_root, "cache", "categories", f"{name}-{digest}")
    for split, text in texts.items():
        write_file(folder / f"{split}.jsonl", text)
    return folder
