"""The methods that `msft compare` knows by name: what each changes in a configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.config import SearchConfig
from tasks.config_file import change_config
from tasks.errors import ConfigError

CONTROL = "sft"


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        title: as tables and plots name it.
        settings: values at dotted paths of the configuration; None puts a default back.
    """

    title: str
    settings: Mapping[str, Any]


METHODS: Mapping[str, Method] = {
    # No drop is as large as this, so nothing is ever excluded: the whole mixture, epoch after epoch.
    "sft": Method("SFT", {"search.rule": None, "search.min_delta": 1e9}),
    "msft": Method("mSFT", {}),
    "msft_paper": Method(
        "mSFT, paper mode",
        {"search.rule": "paper", "search.min_delta": None, "search.optimizer_on_rollback": "reset"},
    ),
}


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
    settings = {**changes, **METHODS[method].settings, "seed": seed, "name": name}
    return change_config(config, settings, where=f"{method}, seed {seed}")
