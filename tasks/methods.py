"""The methods that `msft compare` knows by name: what each changes in a configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.algorithm.methods import RULES, takes
from tasks.config import SearchConfig
from tasks.config_file import change_config
from tasks.errors import ConfigError

CONTROL = "sft"
_EMA = 0.99  # the pilot's, over which forward search won (search.md)
# Nothing is discarded, so a decision may come often; each costs the start of a worker, and no FLOPs. An epoch is
# shorter without the excluded: three evaluations of it make about as many in all as four of the full mixture's
# (measured: four made 15 % more total FLOPs than SFT, three 2 % fewer).
_OFTEN = {"search.compute_budget_epochs": 1, "search.evals_per_epoch": 3}


@dataclass(frozen=True)
class Method:
    """One method of a comparison.

    Attributes:
        title: as tables and plots name it.
        method: what `search.method` says.
        settings: further values at dotted paths of the configuration; None puts a default back.
    """

    title: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)


METHODS: Mapping[str, Method] = {
    "sft": Method("SFT", "sft"),
    "sft_ema": Method("SFT + EMA", "sft", {"training.ema": _EMA}),
    "msft": Method("mSFT", "msft"),
    "msft_paper": Method(
        "mSFT, paper mode",
        "msft",
        {"search.rule": "paper", "search.min_delta": None, "search.optimizer_on_rollback": "reset"},
    ),
    "continual_sft": Method("Continual SFT", "continual_sft"),
    "dynamix_sft": Method("DynamixSFT", "dynamix_sft"),
    "ies": Method("IES", "ies"),
    "sro_sft": Method("SRO SFT", "sro_sft"),
    "soft_sro_sft": Method("Soft SRO SFT", "soft_sro_sft"),
    "forward": Method("Forward search", "forward", _OFTEN),
    "forward_ema": Method("Forward search + EMA", "forward", {**_OFTEN, "training.ema": _EMA}),
    "forward_random": Method(
        "Forward search + EMA, by lot",
        "forward",
        {**_OFTEN, "training.ema": _EMA, "search.options": {"random_seed": 1}},
    ),
    "msft_rehearsal": Method(
        "mSFT + rehearsal + EMA", "msft", {"training.ema": _EMA, "search.options": {"rehearsal": 0.1}}
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
    chosen = METHODS[method]
    # What the file sets for its own method alone would be refused in another.
    unused = {f"search.{setting}": None for setting in RULES if not takes(chosen.method, setting)}
    if chosen.method != config.search.method:
        unused["search.options"] = None
    settings = {**changes, **unused, "search.method": chosen.method, **chosen.settings}
    settings |= {"seed": seed, "name": name}
    return change_config(config, settings, where=f"{method}, seed {seed}")
