"""The searches of a comparison or sweep: one for each point of the grid, seed and method."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import Field

from tasks.algorithm.methods import RULES, takes
from tasks.comparison.categories import split_by_column
from tasks.config.loading import change_config
from tasks.config.presets import PRESETS, check_methods
from tasks.config.schema import SearchConfig
from tasks.config.strict_yaml import read_yaml
from tasks.contracts import Value
from tasks.errors import ConfigError

CONTROL = "sft"
NUM_SUB_DATASETS, ROWS, SPLIT = "num_sub_datasets", "rows", "split"
_LONGEST_NAME = 64


class Axis(Value):
    """One setting that a sweep varies.

    Attributes:
        path: a dotted path of the configuration; `num_sub_datasets` for the first k of the mixture; `rows` for the
            maximum number of train rows of each sub-dataset; or `split`, where a value NAME:COLUMN turns each category
            of one sub-dataset into a sub-dataset and `none` leaves the mixture as it is.
        values: as YAML reads them.
    """

    path: str
    values: tuple[Any, ...]

    @property
    def name(self) -> str:
        """Return the axis's column name in tables and CSV files."""
        return self.path.rpartition(".")[2]


class Arm(Value):
    """One search of a comparison or sweep.

    Attributes:
        method: a key of PRESETS.
        seed: of the search.
        point: the sweep's settings by the names of its axes; empty in a comparison.
        config: the search's whole configuration.
    """

    method: str
    seed: int
    point: dict[str, str] = Field(default_factory=dict)
    config: SearchConfig

    @property
    def label(self) -> str:
        """Return the arm's name in log lines and errors."""
        return ", ".join([self.method, *(f"{axis} {value}" for axis, value in self.point.items()), f"seed {self.seed}"])


class Grid(Value):
    """All searches of a comparison or sweep.

    Attributes:
        arms: the searches, in the order in which they start.
        control: the method that the others are measured against.
        axes: names of the sweep's axes; empty in a comparison.
    """

    arms: tuple[Arm, ...]
    control: str
    axes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """Return `sweep` or `comparison`, as directories and MLflow's tag `msft.kind` have it."""
        return "sweep" if self.axes else "comparison"


def read_axis(text: str) -> Axis:
    """Return the axis given as `a.b=1,2,3`.

    Raises:
        ConfigError: the text has another form.
    """
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
    """Return the searches point by point, seed by seed, method by method.

    Args:
        config: the settings that all searches share.
        methods: keys of PRESETS; none: SFT and mSFT.
        seeds: none: the configuration's.
        control: none: SFT if it is compared, otherwise the first method.
        axes: the sweep's; none: a comparison.
    Raises:
        ConfigError: a method or axis is unknown, does not go with the configuration, or makes two searches the same.
    """
    check_methods([*methods, *([control] if control else [])])
    _require_test_split(config)
    chosen = tuple(dict.fromkeys(methods)) or (CONTROL, "msft")
    if control and control not in chosen:
        raise ConfigError("--control", [f"{control} is not among the methods {', '.join(chosen)}"])
    _check_axes(axes, chosen)
    arms = tuple(
        Arm(
            method=method,
            seed=seed,
            point=point,
            config=configure(changed, method, seed, _name(config.name, method, point)),
        )
        for point, changed in _points(config, axes)
        for seed in dict.fromkeys(seeds or (config.seed,))
        for method in chosen
    )
    _check_distinct(arms)
    default = CONTROL if CONTROL in chosen else chosen[0]
    return Grid(arms=arms, control=control or default, axes=tuple(axis.name for axis in axes))


def configure(config: SearchConfig, method: str, seed: int, name: str) -> SearchConfig:
    """Return the configuration of one search.

    Args:
        config: the settings that all methods share.
        method: a key of PRESETS; its settings replace those of `config`.
        seed: of the search.
        name: of the search.
    Raises:
        ConfigError: the settings do not go together.
    """
    chosen = PRESETS[method]
    # Settings of the file that take effect in its own method only would be refused in another.
    unused = {f"search.{setting}": None for setting in RULES if not takes(chosen.method, setting)}
    if chosen.method != config.search.method:
        unused["search.options"] = None
    settings = {**unused, "search.method": chosen.method, **chosen.settings, "seed": seed, "name": name}
    return change_config(config, settings, where=f"{method}, seed {seed}")


def _require_test_split(config: SearchConfig) -> None:
    if all(s.splits.test is None or s.metric == "loss" for s in config.mixture.sub_datasets):
        raise ConfigError(config.name, ["no sub-dataset has a test split and an accuracy, so nothing can be compared"])


def _check_axes(axes: Sequence[Axis], methods: Sequence[str]) -> None:
    names = [axis.name for axis in axes]
    if len(set(names)) != len(names):
        raise ConfigError("--over", [f"expected axes of different names; got {', '.join(names)}"])
    problems = [
        f"{method} sets {axis.path} itself, so all points of this axis would be one search; leave one of them out"
        for axis in axes
        for method in methods
        if axis.path in PRESETS[method].settings
    ]
    if problems:
        raise ConfigError("--over", problems)


def _check_distinct(arms: Sequence[Arm]) -> None:
    """Refuse two methods that are one search, as `sft` and `sft_ema` are when the file sets `training.ema`."""
    first: dict[str, str] = {}
    for arm in arms:
        settings = arm.config.model_copy(update={"name": ""}).model_dump_json()
        twin = first.setdefault(settings, arm.method)
        if twin != arm.method:
            raise ConfigError(
                "--methods", [f"{twin} and {arm.method} are one and the same search with these settings; leave one out"]
            )


def _points(config: SearchConfig, axes: Sequence[Axis]) -> Iterator[tuple[dict[str, str], SearchConfig]]:
    """Yield each point of the grid with the configuration at it; a single one without axes."""
    for values in itertools.product(*(axis.values for axis in axes)):
        changed = config
        for axis, value in zip(axes, values, strict=True):
            changed = _at(changed, axis, value)
        yield {axis.name: str(value) for axis, value in zip(axes, values, strict=True)}, changed


def _at(config: SearchConfig, axis: Axis, value: Any) -> SearchConfig:
    """Return the configuration at one value of an axis."""
    where = f"--over {axis.path}={value}"
    if axis.path == NUM_SUB_DATASETS:
        return _first(config, value, where)
    if axis.path == SPLIT:
        name, separator, column = str(value).partition(":")
        if value != "none" and not separator:
            raise ConfigError(where, ["expected NAME:COLUMN, or none"])
        return config if value == "none" else split_by_column(config, name, column)
    if axis.path == ROWS:
        names = [sub_dataset.name for sub_dataset in config.mixture.sub_datasets]
        return change_config(config, {f"mixture.sub_datasets.{n}.max_rows.train": value for n in names}, where)
    return change_config(config, {axis.path: value}, where)


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


def _name(name: str, method: str, point: dict[str, str]) -> str:
    """Return the name of a search, unique within its sweep and no longer than a search's name may be."""
    parts = [name, method, *(f"{axis}{value}" for axis, value in point.items())]
    full = re.sub(r"[^A-Za-z0-9_.-]+", "_", "-".join(parts))
    if len(full) <= _LONGEST_NAME:
        return full
    digest = hashlib.sha256(full.encode()).hexdigest()[:8]
    return f"{full[: _LONGEST_NAME - 9]}-{digest}"
