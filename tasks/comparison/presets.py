"""The methods that `msft compare` knows by name: what each changes in a configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tasks.algorithm.methods import RULES, takes
from tasks.config.loading import change_config
from tasks.config.presets import PRESETS
from tasks.config.schema import SearchConfig
from tasks.errors import ConfigError

CONTROL = "sft"
METHODS = PRESETS


def check_methods(methods: Iterable[str]) -> None:
    """Refuse a name that no method has.

    Raises:
        ConfigError: lists all of them.
    """
    unknown = [method for method in methods if method not in METHODS]
    if unknown:
        raise ConfigError(
            "--methods", [f"no method {name!r}; there are {', '.join(METHODS)}" for name in unknown]
        )


def configure(
    config: SearchConfig, method: str, seed: int, changes: Mapping[str, Any], name: str
) -> SearchConfig:
    """Return the search of one method and seed.

    Args:
        config: what all methods share.
        method: a key of METHODS; its settings win over `changes`.
        seed: of the search.
        changes: further values at dotted paths, such as a sweep's point.
        name: of the search.
    Raises:
        ConfigError: these settings do not go together.
    """
    chosen = METHODS[method]
    # What the file sets for its own method alone would be refused in another.
    unused = {f"search.{setting}": None for setting in RULES if not takes(chosen.method, setting)}
    if chosen.method != config.search.method:
        unused["search.options"] = None
    settings = {**changes, **unused, "search.method": chosen.method, **chosen.settings}
    settings |= {"seed": seed, "name": name}
    return change_config(config, settings, where=f"{method}, seed {seed}")
