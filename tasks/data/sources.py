"""Read the rows of a sub-dataset from a file, a folder, the hub or a generator, as `Example`s."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from tasks.config.schema import SearchConfig
from tasks.config.sub_datasets import Carve, SubDatasetConfig
from tasks.data.examples import Example, to_example
from tasks.data.files import Row, read_each_row
from tasks.data.folder import split_files
from tasks.data.forms import SAMPLE, Form, form_of
from tasks.data.hub import advice_on, hub_errors
from tasks.data.problems import Problems
from tasks.data.splits import carve_split, sample_rows
from tasks.errors import DataError

SPLITS = ("train", "validation", "test")


def known_form(config: SearchConfig, sub_dataset: SubDatasetConfig) -> Form | None:
    """Return the form of the train rows, by the first of them; None for one that is not known, or with a template."""
    if sub_dataset.template is not None or sub_dataset.synthetic is not None:
        return None
    try:
        rows, _ = read_columns(config, sub_dataset, "train", sub_dataset.splits.train)
        sample = [row for row in itertools.islice(rows, SAMPLE) if not isinstance(row, DataError)]
    except DataError:  # told with all other problems by `read_splits`
        return None
    return form_of(sample) if sample else None


def train_source(config: SearchConfig, sub_dataset: SubDatasetConfig) -> object:
    """Return what the train rows are read from, equal for equal sources; None for rows that are generated."""
    train = sub_dataset.splits.train
    if sub_dataset.hub is not None:
        return sub_dataset.hub, sub_dataset.hub_config, sub_dataset.revision, train
    if sub_dataset.path is not None:
        files = split_files(sub_dataset.name, config.resolve(sub_dataset.path), "train", train)
        return tuple(file.resolve() for file in files)
    return None


def read_splits(config: SearchConfig, sub_dataset: SubDatasetConfig) -> dict[str, list[Example]]:
    """Return the examples of each split of the sub-dataset; there is no `test` where it has none.

    Carved splits are drawn from train by the seed, with all rows of a prompt at a time; never from test.

    Raises:
        DataError: files, columns or rows are unusable; names up to ten of them.
    """
    wanted = {split: getattr(sub_dataset.splits, split) for split in SPLITS}
    named = {split: name for split, name in wanted.items() if isinstance(name, str)}
    problems = Problems()
    form = known_form(config, sub_dataset)
    splits = {split: _read_named(config, sub_dataset, split, form, problems) for split in named}
    problems.check()
    for split in ("test", "validation"):
        if isinstance(carve := wanted[split], Carve):
            splits["train"], splits[split] = carve_split(
                splits["train"], carve.carve, sub_dataset.name, split, config.seed
            )
    for split, examples in splits.items():
        limit = getattr(sub_dataset.max_rows, split)
        splits[split] = sample_rows(examples, limit, f"{sub_dataset.name}/{split}", config.seed)
    return splits


def _read_named(
    config: SearchConfig, sub_dataset: SubDatasetConfig, split: str, form: Form | None, problems: Problems
) -> list[Example]:
    """Return the examples of a split; a problem that ends its reading is noted, as those of single rows are."""
    examples: list[Example] = []
    with problems.collected():
        rows, where = read_columns(config, sub_dataset, split, getattr(sub_dataset.splits, split))
        index = -1
        for index, row in enumerate(rows):
            with problems.collected():
                examples.append(_example_of(sub_dataset, row, f"{where} row {index}", form))
        if index < 0:
            raise DataError(
                sub_dataset.name,
                where,
                got="no rows",
                expected="at least one row",
                fix="add rows to the file, name another split under splits, or remove the sub-dataset",
            )
    return examples


def _example_of(
    sub_dataset: SubDatasetConfig, row: Mapping[str, Any] | DataError, where: str, form: Form | None
) -> Example:
    if isinstance(row, DataError):
        raise row
    return to_example(sub_dataset, row, row.where if isinstance(row, Row) else where, form)


def read_columns(
    config: SearchConfig, sub_dataset: SubDatasetConfig, split: str, name: str
) -> tuple[Iterable[Mapping[str, Any] | DataError], str]:
    """Return the rows of a named split without change, and their location for messages.

    A DataError stands in place of a line of a file that is no row.
    """
    if sub_dataset.synthetic is not None:
        from tasks.data.synthetic import synthetic_rows

        rows = synthetic_rows(sub_dataset.synthetic, split, config.seed)
        return rows, f"{split} (synthetic {sub_dataset.synthetic.skill})"
    if sub_dataset.hub is not None:
        return _load_hub(sub_dataset, name), f"{sub_dataset.hub} split {name}"
    assert sub_dataset.path is not None
    files = split_files(sub_dataset.name, config.resolve(sub_dataset.path), split, name)
    return read_each_row(sub_dataset.name, files), ", ".join(str(file) for file in files)


def _load_hub(sub_dataset: SubDatasetConfig, split: str) -> Iterable[Mapping[str, Any]]:
    import datasets

    datasets.disable_progress_bars()
    try:
        rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(
            sub_dataset.hub, sub_dataset.hub_config, split=split, revision=sub_dataset.revision
        )
    except (*hub_errors(), ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise DataError(
            sub_dataset.name,
            f"hub {sub_dataset.hub}, split {split}",
            got=" ".join(str(error).split())[:300],
            expected="a dataset on the hub with this configuration and split",
            fix=advice_on(error, "revision", "check hub, hub_config, revision and splits"),
        ) from error
    return rows
