"""Presets: named settings of a method, for `search.method` and for `msft compare`."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tasks.algorithm.methods import METHODS
from tasks.errors import ConfigError

logger = logging.getLogger(__name__)

_EMA = 0.99  # the pilot's value, with which forward search won
# Forward search discards nothing, so frequent decisions cost no FLOPs, only the start of a worker each. Epochs get
# shorter as sub-datasets are excluded, so three evaluations an epoch make about as many in total as four of the full
# mixture (measured: four cost 15 % more FLOPs than SFT, three 2 % fewer).
_OFTEN = {"search.compute_budget_epochs": 1, "search.evals_per_epoch": 3}
_OFTEN_EMA = {**_OFTEN, "training.ema": _EMA}
# Rehearsal of all rows learns wrong labels again that the rollback had unlearned.
_ANSWERED = {"rehearsal": 0.1, "rehearse": "correct"}
_PLUS = {**_ANSWERED, "loss_guard": 0.05}


@dataclass(frozen=True)
class Preset:
    """A method with settings: values at dotted paths of the configuration; None restores the default."""

    title: str  # in tables and plots
    summary: str  # in `msft methods`
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)


PRESETS: Mapping[str, Preset] = {
    "sft": Preset("SFT", "one roll-out of the whole mixture and budget, the control", "sft"),
    "sft_ema": Preset("SFT + EMA", "sft with a moving average of the weights", "sft", {"training.ema": _EMA}),
    "sft_ema_soup": Preset(
        "SFT + EMA + soup",
        "sft_ema whose champion is a greedy average of its checkpoints",
        "sft",
        {"training.ema": _EMA, "search.champion": "soup"},
    ),
    "msft": Preset("mSFT", "exclude the sub-dataset that overfits first, go back to its peak", "msft"),
    "msft_paper": Preset(
        "mSFT, paper mode",
        "msft by the paper's literal rule, optimizer reset on rollback",
        "msft",
        {
            "search.rule": "paper",
            "search.min_delta": None,
            "search.optimizer_on_rollback": "reset",
            "search.options": None,
            "search.champion": None,
            "training.ema": None,
        },
    ),
    # An epoch covers one sub-dataset only: four evaluations in each cost five times the FLOPs of SFT (measured).
    "continual_sft": Preset(
        "Continual SFT",
        "one sub-dataset after another, each from the last one's best point",
        "continual_sft",
        {"search.evals_per_epoch": 1},
    ),
    "dynamix_sft": Preset("DynamixSFT", "shares follow look-ahead gains (arXiv 2508.12116)", "dynamix_sft"),
    "ies": Preset("IES", "mastered rows leave back-propagation (arXiv 2502.07547)", "ies"),
    "sro_sft": Preset("SRO SFT", "one roll-out finds each optimum; retrain, leaving each out after it", "sro_sft"),
    "soft_sro_sft": Preset(
        "Soft SRO SFT", "one roll-out finds each optimum; retrain with shares that total it", "soft_sro_sft"
    ),
    "forward": Preset("Forward search", "exclude what overfits and train on, without rollback", "forward", _OFTEN),
    "forward_ema": Preset(
        "Forward search + EMA", "forward with a moving average of the weights", "forward", _OFTEN_EMA
    ),
    "forward_random": Preset(
        "Forward search + EMA, random control",
        "control of forward_ema: as many leave, drawn at random",
        "forward",
        {**_OFTEN_EMA, "search.options": {"random_seed": 1}},
    ),
    "forward_plus": Preset(
        "Forward+ (answered rehearsal, loss guard, EMA)",
        "forward_ema with rehearsal of correct rows and a smaller loss guard",
        "forward",
        {**_OFTEN_EMA, "search.options": _PLUS},
    ),
    "msft_rehearsal": Preset(
        "mSFT + rehearsal + EMA",
        "msft with averaged weights; the excluded stay at a tenth of their share",
        "msft",
        {"training.ema": _EMA, "search.options": {"rehearsal": 0.1}},
    ),
    "msft_answered": Preset(
        "mSFT + answered rehearsal + EMA",
        "msft with averaged weights and rehearsal of correct rows",
        "msft",
        {**_OFTEN_EMA, "search.options": _ANSWERED},
    ),
    "msft_plus": Preset(
        "mSFT+ (answered rehearsal, loss guard, EMA)",
        "msft_answered with a loss guard",
        "msft",
        {**_OFTEN_EMA, "search.options": _PLUS},
    ),
    "msft_memory": Preset(
        "mSFT+ with memory",
        "msft_plus with peaks looked for on the whole path",
        "msft",
        {**_OFTEN_EMA, "search.options": {**_PLUS, "peak_window": "path"}},
    ),
    "msft_paired": Preset(
        "mSFT+, paired test",
        "msft_memory that tests by rows what leaves; if nothing does, it is sft_ema",
        "msft",
        {
            "training.ema": _EMA,
            "search.compute_budget_epochs": 1,
            "search.rule": "paired",
            "search.min_delta": None,
            "search.options": {**_ANSWERED, "peak_window": "path"},
        },
    ),
    "msft_relabelled": Preset(
        "mSFT+ with memory, relabelled",
        "msft_memory; the excluded stay at half share, with the answers of their peak",
        "msft",
        {**_OFTEN_EMA, "search.options": {"rehearse": "relabelled", "loss_guard": 0.05, "peak_window": "path"}},
    ),
    "forward_relabelled": Preset(
        "Forward search + EMA, relabelled",
        "forward_ema; the excluded stay at half share, with the answers of their peak",
        "forward",
        {**_OFTEN_EMA, "search.options": {"rehearse": "relabelled"}},
    ),
    "msft_plus_random": Preset(
        "mSFT+, random control",
        "control of msft_plus: as many leave, drawn at random",
        "msft",
        {**_OFTEN_EMA, "search.options": {**_PLUS, "random_seed": 1}},
    ),
}


def unknown_method(name: str, known: Iterable[str] = PRESETS) -> str:
    """Return the problem of a name that is neither method nor preset, with the nearest one."""
    known = list(dict.fromkeys(known))
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    return f"got {name!r}; expected a method or preset; {hint}"


def check_methods(names: Iterable[str]) -> None:
    """Raise ConfigError for names of methods that a comparison does not know, with the nearest known one of each."""
    problems = [unknown_method(name) for name in names if name not in PRESETS]
    if problems:
        raise ConfigError("--methods", problems)


def expand_preset(raw: Any, *, has_settings: bool = True) -> Any:
    """Return a raw configuration with its preset replaced by the method and settings that the preset stands for.

    A name that is a method as well, such as `forward`, means the method alone. A value that the configuration gives
    itself wins over the preset's, with a warning. In a file that several methods share, a preset `has_settings` not.
    """
    search = raw.get("search") if isinstance(raw, Mapping) else None
    name = search.get("method") if isinstance(search, Mapping) else None
    if not isinstance(name, str) or name in METHODS or name not in PRESETS:
        return raw
    preset = PRESETS[name]
    expanded: dict[str, Any] = {**raw, "search": {**raw["search"], "method": preset.method}}
    for path, value in preset.settings.items() if has_settings else ():
        section, key = path.split(".")
        given = expanded.get(section, {})
        if value is None or not isinstance(given, Mapping):  # a section of another type is refused later
            continue
        if isinstance(value, Mapping) and isinstance(given.get(key), Mapping):
            value = {**value, **given[key]}
        elif key in given:
            if given[key] != value:
                logger.warning(f"{path}: {given[key]} is used; search.method={name} would set {value}")
            continue
        expanded[section] = {**given, key: value}
    return expanded
