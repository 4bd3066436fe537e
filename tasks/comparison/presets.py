"""The methods that `msft compare` knows by name: what each changes in a configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.algorithm.methods import RULES, takes
from tasks.config.loading import change_config
from tasks.config.schema import SearchConfig
from tasks.errors import ConfigError

CONTROL = "sft"
_EMA = 0.99  # the pilot's, over which forward search won (search.md)
# Nothing is discarded, so a decision may come often; each costs the start of a worker, and no FLOPs. An epoch is
# shorter without the excluded: three evaluations of it make about as many in all as four of the full mixture's
# (measured: four made 15 % more total FLOPs than SFT, three 2 % fewer).
_OFTEN = {"search.compute_budget_epochs": 1, "search.evals_per_epoch": 3}
# Rehearsed rows with wrong labels are learned like all others, after the search went back to unlearn them.
_ANSWERED = {"rehearsal": 0.1, "rehearse": "answered"}
_PLUS = {**_ANSWERED, "loss_guard": 0.05}


@dataclass(frozen=True)
class ComparedMethod:
    """One method of a comparison.

    Attributes:
        title: as tables and plots name it.
        method: what `search.method` says.
        settings: further values at dotted paths of the configuration; None puts a default back.
    """

    title: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)


METHODS: Mapping[str, ComparedMethod] = {
    "sft": ComparedMethod("SFT", "sft"),
    "sft_ema": ComparedMethod("SFT + EMA", "sft", {"training.ema": _EMA}),
    "msft": ComparedMethod("mSFT", "msft"),
    "msft_paper": ComparedMethod(
        "mSFT, paper mode",
        "msft",
        {
            "search.rule": "paper",
            "search.min_delta": None,
            "search.optimizer_on_rollback": "reset",
            "search.options": None,
            "training.ema": None,
        },
    ),
    # An epoch is that of one sub-dataset alone: four evaluations in each cost five times the FLOPs of SFT (measured).
    "continual_sft": ComparedMethod("Continual SFT", "continual_sft", {"search.evals_per_epoch": 1}),
    "dynamix_sft": ComparedMethod("DynamixSFT", "dynamix_sft"),
    "ies": ComparedMethod("IES", "ies"),
    "sro_sft": ComparedMethod("SRO SFT", "sro_sft"),
    "soft_sro_sft": ComparedMethod("Soft SRO SFT", "soft_sro_sft"),
    "forward": ComparedMethod("Forward search", "forward", _OFTEN),
    "forward_ema": ComparedMethod("Forward search + EMA", "forward", {**_OFTEN, "training.ema": _EMA}),
    "forward_random": ComparedMethod(
        "Forward search + EMA, by lot",
        "forward",
        {**_OFTEN, "training.ema": _EMA, "search.options": {"random_seed": 1}},
    ),
    "forward_plus": ComparedMethod(
        "Forward+ (answered rehearsal, loss guard, EMA)",
        "forward",
        {**_OFTEN, "training.ema": _EMA, "search.options": _PLUS},
    ),
    "msft_rehearsal": ComparedMethod(
        "mSFT + rehearsal + EMA", "msft", {"training.ema": _EMA, "search.options": {"rehearsal": 0.1}}
    ),
    "msft_answered": ComparedMethod(
        "mSFT + answered rehearsal + EMA",
        "msft",
        {**_OFTEN, "training.ema": _EMA, "search.options": _ANSWERED},
    ),
    "msft_plus": ComparedMethod(
        "mSFT+ (answered rehearsal, loss guard, EMA)",
        "msft",
        {**_OFTEN, "training.ema": _EMA, "search.options": _PLUS},
    ),
    "msft_memory": ComparedMethod(
        "mSFT+ with memory",
        "msft",
        {**_OFTEN, "training.ema": _EMA, "search.options": {**_PLUS, "memory": True}},
    ),
    "msft_plus_random": ComparedMethod(
        "mSFT+, by lot",
        "msft",
        {**_OFTEN, "training.ema": _EMA, "search.options": {**_PLUS, "random_seed": 1}},
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
