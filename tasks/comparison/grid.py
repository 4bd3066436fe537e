"""The searches of a comparison or sweep: one for each point of the grid, seed and method."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.algorithm.methods import RULES, takes
from tasks.config.loading import change_config
from tasks.config.presets import PRESETS, check_methods
from tasks.config.schema import SearchConfig
from tasks.config.strict_yaml import read_yaml
from tasks.config.sub_datasets import SubDatasetConfig
from tasks.contracts import Value
from tasks.data.sources import read_columns
from tasks.data.values import json_text
from tasks.errors import ConfigError, DataError
from tasks.runtime.files import write_file

logger = logging.getLogger(__name__)

CONTROL = "sft"
_LONGEST_NAME = 64

Rows = list[Mapping[str, Any]]


class Axis(Value):
    """One setting that a sweep varies, with its values as YAML reads them.

    `path` is a dotted path of the configuration; `num_sub_datasets` for the first k of the mixture; `rows` for the
    maximum number of train rows of each sub-dataset; or `split`, where a value NAME:COLUMN turns each category of one
    sub-dataset into a sub-dataset and `none` leaves the mixture as it is.
    """

    path: str
    values: tuple[Any, ...]

    @property
    def name(self) -> str:
        """Return the axis's column name in tables and CSV files."""
        return self.path.rpartition(".")[2]


class Arm(Value):
    """One search: its whole configuration, made from a key of PRESETS, a seed, and the sweep's settings by axis."""

    method: str
    seed: int
    point: dict[str, str] = Field(default_factory=dict)
    config: SearchConfig

    @property
    def label(self) -> str:
        """Return the arm's name in log lines and errors."""
        return ", ".join([self.method, *(f"{axis} {value}" for axis, value in self.point.items()), f"seed {self.seed}"])


class Grid(Value):
    """All searches in their order of starting; the method that the others are measured against; a sweep's axes."""

    arms: tuple[Arm, ...]
    control: str
    axes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """Return `sweep` or `comparison`, as directories and MLflow's tag `msft.kind` have it."""
        return "sweep" if self.axes else "comparison"


def read_axis(text: str) -> Axis:
    """Return the axis given as `a.b=1,2,3`; a text of another form is a ConfigError."""
    path, separator, listed = text.partition("=")
    try:
        values = read_yaml(f"[{listed}]")
    except ValueError:
        values = None
    if not separator or not path or not values:
        raise ConfigError(f"--over {text}", ["expected the form a.b=1,2,3"])
    return Axis(path=path, values=tuple(values))


def plan_grid(
    config: SearchConfig,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
    control: str = "",
    axes: Sequence[Axis] = (),
) -> Grid:
    """Return the searches point by point, seed by seed, method by method; no axes: a comparison.

    The methods are keys of PRESETS, by default SFT and mSFT; the default seed is the configuration's, and the default
    control SFT if it is compared, otherwise the first method.

    Raises:
        ConfigError: a method or axis is unknown, does not go with the configuration, or makes two searches the same.
    """
    check_methods([*methods, *([control] if control else [])])
    if all(s.splits.test is None or s.metric == "loss" for s in config.mixture.sub_datasets):
        raise ConfigError(config.name, ["no sub-dataset has a test split and an accuracy, so nothing can be compared"])
    chosen = tuple(dict.fromkeys(methods)) or (CONTROL, "msft")
    if control and control not in chosen:
        raise ConfigError("--control", [f"{control} is not among the methods {', '.join(chosen)}"])
    _check_axes(axes, chosen)
    arms = tuple(
        Arm(method=method, seed=seed, point=point, config=configure(changed, method, seed, name))
        for point, changed in _points(config, axes)
        for seed in dict.fromkeys(seeds or (config.seed,))
        for method in chosen
        for name in [name_of(config.name, method, point)]
    )
    _check_distinct(arms)
    if any(arm.config.training.machines > 1 for arm in arms):
        told = "got more than 1 for searches of a comparison; expected 1, or run each by `msft search` and compare then"
        raise ConfigError("training.machines", [told])
    default = CONTROL if CONTROL in chosen else chosen[0]
    return Grid(arms=arms, control=control or default, axes=tuple(axis.name for axis in axes))


def configure(config: SearchConfig, method: str, seed: int, name: str) -> SearchConfig:
    """Return the configuration of one search; the settings of `method`, a key of PRESETS, replace those of `config`."""
    chosen = PRESETS[method]
    # Settings of the file that take effect in its own method only would be refused in another.
    unused = {
        f"search.{setting}": None
        for setting in RULES
        if not takes(chosen.method, setting, getattr(config.search, setting))
    }
    if chosen.method != config.search.method:
        unused["search.options"] = None
    settings = {**unused, "search.method": chosen.method, **chosen.settings, "seed": seed, "name": name}
    return change_config(config, settings, where=f"{method}, seed {seed}")


def _check_axes(axes: Sequence[Axis], methods: Sequence[str]) -> None:
    names = [axis.name for axis in axes]
    problems = [
        f"{method} sets {axis.path} itself, so all points of this axis would be one search; leave one of them out"
        for axis in axes
        for method in methods
        if axis.path in PRESETS[method].settings
    ]
    if len(set(names)) != len(names):
        problems.append(f"expected axes of different names; got {', '.join(names)}")
    if problems:
        raise ConfigError("--over", problems)


def _check_distinct(arms: Sequence[Arm]) -> None:
    """Refuse two methods that are one search, as `sft` and `sft_ema` are when the file sets `training.ema`."""
    first: dict[str, str] = {}
    for arm in arms:
        settings = arm.config.model_copy(update={"name": ""}).model_dump_json()
        twin = first.setdefault(settings, arm.method)
        if twin != arm.method:
            problem = f"{twin} and {arm.method} are one and the same search with these settings; leave one out"
            raise ConfigError("--methods", [problem])


def _points(config: SearchConfig, axes: Sequence[Axis]) -> Iterator[tuple[dict[str, str], SearchConfig]]:
    """Yield each point of the grid with the configuration at it; a single one without axes."""
    for values in itertools.product(*(axis.values for axis in axes)):
        changed = config
        for axis, value in zip(axes, values, strict=True):
            changed = _at(changed, axis.path, value)
        yield {axis.name: str(value) for axis, value in zip(axes, values, strict=True)}, changed


def _at(config: SearchConfig, path: str, value: Any) -> SearchConfig:
    """Return the configuration at one value of an axis."""
    where = f"--over {path}={value}"
    match path:
        case "num_sub_datasets":
            return _first(config, value, where)
        case "split":
            name, separator, column = str(value).partition(":")
            if value != "none" and not separator:
                raise ConfigError(where, ["expected NAME:COLUMN, or none"])
            return config if value == "none" else split_by_column(config, name, column)
        case "rows":
            names = [sub_dataset.name for sub_dataset in config.mixture.sub_datasets]
            return change_config(config, {f"mixture.sub_datasets.{n}.max_rows.train": value for n in names}, where)
        case _:
            return change_config(config, {path: value}, where)


def _first(config: SearchConfig, count: Any, where: str) -> SearchConfig:
    """Return the configuration with the first sub-datasets only, and their weights."""
    mixture = config.mixture.model_dump(mode="json")
    available = len(mixture["sub_datasets"])
    if not isinstance(count, int) or not 1 <= count <= available:
        raise ConfigError(where, [f"expected a whole number from 1 to {available}, the number of sub-datasets"])
    kept = mixture["sub_datasets"][:count]
    changes: dict[str, Any] = {"mixture.sub_datasets": kept}
    if isinstance(mixture["proportions"], dict):
        changes["mixture.proportions"] = {part["name"]: mixture["proportions"][part["name"]] for part in kept}
    return change_config(config, changes, where)


def name_of(name: str, method: str, point: dict[str, str]) -> str:
    """Return the name of a search, unique within its sweep and no longer than a search's name may be."""
    parts = [name, method, *(f"{axis}{value}" for axis, value in point.items())]
    full = re.sub(r"[^A-Za-z0-9_.-]+", "_", "-".join(parts))
    if len(full) <= _LONGEST_NAME:
        return full
    digest = hashlib.sha256(full.encode()).hexdigest()[:8]
    return f"{full[: _LONGEST_NAME - 9]}-{digest}"


def split_by_column(config: SearchConfig, name: str, column: str) -> SearchConfig:
    """Return the configuration with one sub-dataset replaced by one per category, a value of a column of its rows.

    The rows are written to files under `output_root`. A category without rows in a split is left out with a warning.

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
        got, expected = f"categories {', '.join(categories)}", "one with rows in each split"
        raise DataError(name, f"column {column}", got=got, expected=expected, fix="choose another column")
    kept = sub_dataset.model_dump(mode="json") | {"hub": None, "hub_config": None, "revision": None}
    kept |= {"splits": {"test": None} | {split: split for split in splits}}
    parts = []
    for category in whole:
        folder = _write({split: by[category] for split, by in rows.items()}, config, f"{name}-{category}")
        parts.append(kept | {"name": f"{name}-{category}", "path": str(folder.resolve())})
    mixture: list[dict[str, Any]] = []
    for other in config.mixture.sub_datasets:
        mixture += parts if other.name == name else [other.model_dump(mode="json")]
    return change_config(config, {"mixture.sub_datasets": mixture}, f"{name} by {column}")


def _sub_dataset(config: SearchConfig, name: str) -> SubDatasetConfig:
    found = {sub_dataset.name: sub_dataset for sub_dataset in config.mixture.sub_datasets}
    if name not in found:
        problem = f"no such sub-dataset; there are {', '.join(found)}"
    elif found[name].synthetic is not None:
        problem = "generated rows have no columns; name a sub-dataset with path or hub"
    elif any(not isinstance(text, str | None) for _, text in found[name].splits):
        problem = "its splits are carved; name a file for each, so that all categories share them"
    elif isinstance(config.mixture.proportions, dict):
        problem = "mixture.proportions names weights; set by_size or equal"
    else:
        return found[name]
    raise ConfigError(f"split {name}", [problem])


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
            got, expected = f"the columns {', '.join(row)}", f"a value in {column}"
            place, fix = f"{where} row {index}", "name another column, or fix the row"
            raise DataError(sub_dataset.name, place, got=got, expected=expected, fix=fix)
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
