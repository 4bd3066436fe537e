"""A sweep's grid: its axes, and the search of each point, method and seed."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Sequence
from typing import Any

from tasks.comparison.categories import split_by_column
from tasks.comparison.parallel import Arm
from tasks.comparison.presets import CONTROL, METHODS, check_methods, configure
from tasks.comparison.runs import refuse_untested
from tasks.config.loading import change_config
from tasks.config.schema import SearchConfig
from tasks.config.strict_yaml import read_yaml
from tasks.contracts import Value
from tasks.errors import ConfigError

NUM_SUB_DATASETS, ROWS, SPLIT = "num_sub_datasets", "rows", "split"
_LONGEST_NAME = 64


class Axis(Value):
    """What a sweep varies.

    Attributes:
        path: a dotted path of the configuration; or `num_sub_datasets`, the first k of the mixture; or `rows`, the
            most train rows of each sub-dataset; or `split`, of which a value NAME:COLUMN makes a sub-dataset of each
            category of one, and `none` leaves the mixture as it is.
        values: as YAML reads them.
    """

    path: str
    values: tuple[Any, ...]

    @property
    def name(self) -> str:
        """Return what a column is called by."""
        return self.path.rpartition(".")[2]


def read_axis(text: str) -> Axis:
    """Return the axis that `a.b=1,2,3` means.

    Raises:
        ConfigError: the text has another form.
    """
    path, separator, listed = text.partition("=")
    try:
        values = read_yaml(f"[{listed}]")
    except ValueError:
        values = None
    if not separator or not path or not values:
        raise ConfigError(f"--over {text}", ["wanted the form a.b=1,2,3"])
    return Axis(path=path, values=tuple(values))


def plan_sweep(
    config: SearchConfig, axes: Sequence[Axis], methods: Sequence[str], seeds: Sequence[int]
) -> tuple[tuple[Arm, ...], str]:
    """Return a search for each point of the grid, method and seed; and the control: SFT, or else the first method.

    Raises:
        ConfigError: a point, or a method at it, is no valid configuration; or two axes are one.
    """
    check_methods(methods)
    refuse_untested(config)
    names = [axis.name for axis in axes]
    if not axes or len(set(names)) != len(names):
        raise ConfigError(
            "--over", [f"wanted one axis or more, each of another name; got {', '.join(names) or 'none'}"]
        )
    chosen = tuple(dict.fromkeys(methods)) or (CONTROL, "msft")
    _refuse_axes_without_effect(axes, chosen)
    arms = []
    for values in itertools.product(*(axis.values for axis in axes)):
        changed = config
        for axis, value in zip(axes, values, strict=True):
            changed = _at(changed, axis, value)
        point = {name: str(value) for name, value in zip(names, values, strict=True)}
        arms += [
            Arm(
                method=m,
                seed=seed,
                point=point,
                config=configure(changed, m, seed, {}, _name(config.name, m, point)),
            )
            for seed in dict.fromkeys(seeds or (config.seed,))
            for m in chosen
        ]
    return tuple(arms), CONTROL if CONTROL in chosen else chosen[0]


def _refuse_axes_without_effect(axes: Sequence[Axis], methods: Sequence[str]) -> None:
    """Raise where a method sets what an axis varies, so that all its points would be one search."""
    problems = [
        f"{method} sets {axis.path} itself, so all points of this axis would be one search; leave one of them out"
        for axis in axes
        for method in methods
        if axis.path in METHODS[method].settings
    ]
    if problems:
        raise ConfigError("--over", problems)


def _at(config: SearchConfig, axis: Axis, value: Any) -> SearchConfig:
    """Return the configuration at one value of an axis."""
    where = f"--over {axis.path}={value}"
    if axis.path == NUM_SUB_DATASETS:
        return _first(config, value, where)
    if axis.path == SPLIT:
        name, separator, column = str(value).partition(":")
        if value != "none" and not separator:
            raise ConfigError(where, ["wanted NAME:COLUMN, or none"])
        return config if value == "none" else split_by_column(config, name, column)
    if axis.path == ROWS:
        names = [sub_dataset.name for sub_dataset in config.mixture.sub_datasets]
        return change_config(
            config, {f"mixture.sub_datasets.{n}.max_rows.train": value for n in names}, where
        )
    return change_config(config, {axis.path: value}, where)


def _first(config: SearchConfig, count: Any, where: str) -> SearchConfig:
    mixture = config.mixture.model_dump(mode="json")
    there = len(mixture["sub_datasets"])
    if not isinstance(count, int) or not 1 <= count <= there:
        raise ConfigError(where, [f"wanted a whole number from 1 to {there}, the sub-datasets there are"])
    kept = mixture["sub_datasets"][:count]
    changes: dict[str, Any] = {"mixture.sub_datasets": kept}
    if isinstance(mixture["proportions"], dict):
        changes["mixture.proportions"] = {part["name"]: mixture["proportions"][part["name"]] for part in kept}
    return change_config(config, changes, where)


def _name(name: str, method: str, point: dict[str, str]) -> str:
    """Return a search's name that tells its point, so that no two searches of a sweep are taken for one."""
    parts = [name, method, *(f"{axis}{value}" for axis, value in point.items())]
    full = re.sub(r"[^A-Za-z0-9_.-]+", "_", "-".join(parts))
    if len(full) <= _LONGEST_NAME:
        return full
    digest = hashlib.sha256(full.encode()).hexdigest()[:8]
    return f"{full[: _LONGEST_NAME - 9]}-{digest}"
