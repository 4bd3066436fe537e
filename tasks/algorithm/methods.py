"""Methods by name: the strategy between rounds, and the row policy inside the worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from tasks.algorithm.baselines import ContinualSft, Dynamix, Ies, Sft, SoftSroSft, SroSft
from tasks.algorithm.curves import ExclusionRule
from tasks.algorithm.forward_search import Forward
from tasks.algorithm.msft import Msft
from tasks.algorithm.strategy import Strategy

Policy = Dynamix | Ies


@dataclass(frozen=True)
class Method:
    """Classes of a method's strategy and of its policy inside the worker, if any.

    Attributes:
        goes_back: whether a decision may continue training from any checkpoint of the roll-out. If not, it continues
            from the last one or from the base model, and the others are kept without the optimizer's state.
    """

    strategy: type[Any]
    policy: type[Dynamix] | type[Ies] | None = None
    goes_back: bool = True


METHODS = {
    "msft": Method(Msft),
    "forward": Method(Forward, goes_back=False),
    "sft": Method(Sft, goes_back=False),
    "continual_sft": Method(ContinualSft),
    "sro_sft": Method(SroSft, goes_back=False),
    "soft_sro_sft": Method(SoftSroSft, goes_back=False),
    "dynamix_sft": Method(Sft, Dynamix, goes_back=False),
    "ies": Method(Sft, Ies, goes_back=False),
}
# Settings of exclusions, which only some methods accept.
RULES = ("rule", "min_delta", "exclude_per_round", "optimizer_on_rollback")
# Common settings that a strategy may accept; its other fields are the method's own options.
SHARED = ("max_epochs", "min_delta", "exclude_per_round", "optimizer_on_rollback")


def takes(method: str, setting: str, value: Any = None) -> bool:
    """Return whether a setting of `RULES`, or this value of it, takes effect in the method."""
    if method == "forward" and setting == "rule":
        return bool(value != "paper")
    names = {field.name for field in fields(METHODS[method].strategy)}
    return setting in names or ("rule" in names and setting in ("rule", "min_delta"))


def strategy_of(method: str, shared: Mapping[str, Any], rule: ExclusionRule, own: Mapping[str, Any]) -> Strategy:
    """Return the method's strategy with its settings."""
    entry = METHODS[method]
    accepted = {field.name for field in fields(entry.strategy)}
    given: dict[str, Any] = {name: shared[name] for name in SHARED if name in accepted}
    if "rule" in accepted:
        given["rule"] = rule
    strategy: Strategy = entry.strategy(**given, **(own if entry.policy is None else {}))
    return strategy


def policy_of(method: str, own: Mapping[str, Any]) -> Policy | None:
    """Return the method's policy inside the worker with its options; None: train on all rows as planned."""
    policy = METHODS[method].policy
    return policy(**own) if policy is not None else None
