"""Read the rows of a sub-dataset from a file, a folder, the hub or a generator, as `Example`s."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tasks.config.schema import SearchConfig
from tasks.config.sub_datasets import Carve, SubDatasetConfig
from tasks.data.examples import Example, to_example
from tasks.data.files import FORMATS, open_file
from tasks.data.splits import carve_split, sample_rows
from tasks.errors import DataError

SPLITS = ("train", "validation", "test")


def read_splits(config: SearchConfig, sub_dataset: SubDatasetConfig) -> dict[str, list[Example]]:
    """Return the examples of each split of the sub-dataset; there is no `test` where it has none.

    Carved splits are drawn from train by the seed, with all rows of a prompt at a time; never from test.

    Raises:
        DataError: a file, column or row is unusable; names the row.
    """
    wanted = {split: getattr(sub_dataset.splits, split) for split in SPLITS}
    named = {split: name for split, name in wanted.items() if isinstance(name, str)}
    splits = {split: _read_named(config, sub_dataset, split, name) for split, name in named.items()}
    for split in ("test", "validation"):
        if isinstance(carve := wanted[split], Carve):
            splits["train"], splits[split] = carve_split(
                splits["train"], carve.carve, sub_dataset.name, split, config.seed
            )
    for split, examples in splits.items():
        limit = getattr(sub_dataset.max_rows, split)
        splits[split] = sample_rows(examples, limit, f"{sub_dataset.name}/{split}", config.seed)
    return splits


def _read_named(config: SearchConfig, sub_dataset: SubDatasetConfig, split: str, name: str) -> list[Example]:
    rows, where = read_columns(config, sub_dataset, split, name)
    examples = [to_example(sub_dataset, row, f"{where} row {index}") for index, row in enumerate(rows)]
    if not examples:
        raise DataError(
            sub_dataset.name,
            where,
            got="no rows",
            expected="at least one row",
            fix="add rows to the file, name another split under splits, or remove the sub-dataset",
        )
    return examples


def read_columns(
    config: SearchConfig, sub_dataset: SubDatasetConfig, split: str, name: str
) -> tuple[Iterable[Mapping[str, Any]], str]:
    """Return the rows of a named split without change, and their location for messages."""
    if sub_dataset.synthetic is not None:
        from tasks.data.synthetic import synthetic_rows

        rows = synthetic_rows(sub_dataset.synthetic, split, config.seed)
        return rows, f"{split} (synthetic {sub_dataset.synthetic.skill})"
    if sub_dataset.hub is not None:
        return _load_hub(sub_dataset, name), f"{sub_dataset.hub} split {name}"
    assert sub_dataset.path is not None
    file = _split_file(sub_dataset, config.resolve(sub_dataset.path), split, name)
    return open_file(sub_dataset.name, file), str(file)


def _split_file(sub_dataset: SubDatasetConfig, path: Path, split: str, name: str) -> Path:
    """Return the file of a split: `path` itself, or the file of that name in the folder."""
    if path.is_file():
        if split == "train":
            return path
        path = path.parent
    if not path.is_dir():
        raise DataError(
            sub_dataset.name,
            f"path {path}",
            got="no such file or folder",
            expected="a data file or a folder of them",
            fix=f"fix mixture.sub_datasets.{sub_dataset.name}.path (paths are relative to the YAML file)",
        )
    candidates = [path / name, *(path / f"{name}{ending}" for ending in FORMATS)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    there = ", ".join(sorted(file.name for file in path.iterdir())) or "nothing"
    raise DataError(
        sub_dataset.name,
        f"split {split} in {path}",
        got=f"no file {name}.*; the folder contains {there}",
        expected=f"{name} with one of the endings {', '.join(FORMATS)}",
        fix=f"name the file in splits.{split}"
        + (f", or carve it from train with splits: {{{split}: {{carve: 200}}}}" if split != "train" else "")
        + ("; test: null where there is none" if split == "test" else ""),
    )


def _load_hub(sub_dataset: SubDatasetConfig, split: str) -> Iterable[Mapping[str, Any]]:
    import datasets

    datasets.disable_progress_bars()
    try:
        rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(
            sub_dataset.hub, sub_dataset.hub_config, split=split, revision=sub_dataset.revision
        )
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise DataError(
            sub_dataset.name,
            f"hub {sub_dataset.hub}, split {split}",
            got=" ".join(str(error).split())[:300],
            expected="a dataset on the hub with this configuration and split",
            fix="check hub, hub_config, revision and splits; without a network, download it and use path",
        ) from error
    return rows
