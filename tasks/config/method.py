"""The section `search`: method with its options, budget, and when a sub-dataset overfits."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    Discriminator,
    Field,
    Tag,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    create_model,
    model_serializer,
    model_validator,
)

from tasks.algorithm.baselines import Dynamix, Ies
from tasks.algorithm.curves import ExclusionRule
from tasks.algorithm.forward_search import Forward
from tasks.algorithm.methods import METHODS, RULES, Policy, policy_of, strategy_of, takes
from tasks.algorithm.msft import Msft
from tasks.algorithm.paired import ERROR
from tasks.algorithm.strategy import PeakWindow, Rehearse, Strategy
from tasks.config.sub_datasets import Settings


def _as_written(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    check(value)
    return value


# 5 stays 5 and 5.0 stays 5.0: a search's id has always been made of its options as they were written.
Number = Annotated[float, WrapValidator(_as_written)]
_RANDOM_SEED = (
    "A control: as many sub-datasets leave, at the same times, but drawn at random. null: those that overfit."
)
_RELABELLED = (
    " relabelled: all, with the answers of its peak's checkpoint in place of their labels, at half of their share "
    "(rehearsal 0.5) unless that is given. Of rows whose answer is generated, those answered as labelled."
)
_RELABELLED_SHARE = 0.5
# Options and values of before 0.2 with those of today.
_RENAMED: dict[tuple[str, Any], tuple[str, Any]] = {
    ("memory", True): ("peak_window", "path"),
    ("memory", False): ("peak_window", "round"),
    ("rehearse", "answered"): ("rehearse", "correct"),
}


def rename_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a method's options by their names of today."""
    renamed = _translated(options, _RENAMED)
    return renamed if len(renamed) == len(options) else dict(options)  # one option by both names is refused later


def first_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a method's options by their first names, of which a search's id is made."""
    return _translated(options, {now: before for before, now in _RENAMED.items()})


def _translated(options: Mapping[str, Any], table: Mapping[tuple[str, Any], tuple[str, Any]]) -> dict[str, Any]:
    return dict(table.get(one, one) if isinstance(one[1], bool | str) else one for one in options.items())


class Options(Settings):
    """Options of one method. A dump has only those that were given, as a search's id has."""

    @model_validator(mode="before")
    @classmethod
    def _take_old_names(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        named = rename_options(raw)
        relabels = named.get("rehearse") == "relabelled" and "rehearsal" in cls.model_fields
        return {"rehearsal": _RELABELLED_SHARE, **named} if relabels else named

    @model_validator(mode="after")
    def _rehearse_takes_effect(self) -> Options:
        if getattr(self, "rehearse", None) == "relabelled" and getattr(self, "rehearsal", 1) == 0:
            raise ValueError("rehearse=relabelled takes no effect with rehearsal=0; leave one of them out")
        return self

    @model_serializer
    def _given(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}


class MsftOptions(Options):
    """Options of `msft`."""

    rehearsal: Number = Field(
        Msft.rehearsal,
        ge=0,
        description="Factor on the share at which excluded sub-datasets stay in the mixture (paper: 0).",
    )
    rehearse: Rehearse = Field(
        Msft.rehearse,
        description="Which of their rows. correct: those that the checkpoint rolled back to answers as labelled."
        + _RELABELLED,
    )
    loss_guard: Number | None = Field(
        Msft.loss_guard,
        ge=0,
        description="Share above its minimum at which the validation loss of a sub-dataset must end before it "
        "overfits. null: the score alone decides.",
    )
    peak_window: PeakWindow = Field(
        Msft.peak_window,
        description="Where a sub-dataset's peak is looked for: in this roll-out, or on the whole path that led here. "
        "Only the path shows one that loses a little in each roll-out.",
    )
    random_seed: int | None = Field(Msft.random_seed, description=_RANDOM_SEED)


class ForwardOptions(Options):
    """Options of `forward`."""

    persist: int = Field(
        Forward.persist, ge=1, description="Consecutive evaluations below the peak before a sub-dataset overfits."
    )
    loss_guard: Number = Field(
        Forward.loss_guard,
        ge=0,
        description="Share above its minimum at which the validation loss must end (measured, over SFT with averaged "
        "weights: +3.5 with it, +2.2 without).",
    )
    rehearsal: Number = Field(
        Forward.rehearsal,
        ge=0,
        le=1,
        description="Factor on the share at which excluded sub-datasets stay in the mixture.",
    )
    rehearse: Rehearse = Field(
        Forward.rehearse,
        description="Which of their rows. correct: those that the model answers as labelled when a round begins."
        + _RELABELLED,
    )
    readmit_drop: Number | None = Field(
        Forward.readmit_drop,
        ge=0,
        description="Score below the one at its exclusion at which a sub-dataset returns. null: never.",
    )
    random_seed: int | None = Field(Forward.random_seed, description=_RANDOM_SEED)


class DynamixOptions(Options):
    """Options of `dynamix_sft`."""

    gamma: Number = Field(Dynamix.gamma, ge=0, le=1, description="Share of uniform exploration.")
    alpha: Number = Field(Dynamix.alpha, ge=0, le=1, description="Weight of the past in the moving average of rewards.")
    beta: Number = Field(
        Dynamix.beta, ge=0, description="Sharpness of the softmax (source: 4 for 1B parameters, 5 for 8B)."
    )
    every_steps: int = Field(Dynamix.every_steps, ge=1, description="Optimizer steps between two updates.")


class IesOptions(Options):
    """Options of `ies`."""

    delta: Number = Field(
        Ies.delta,
        ge=0,
        description="Bend of a row's loss, in nats, up to which the row is mastered (the source's default; tuned "
        "from 1e-1 to 1e-5 there).",
    )
    window: int = Field(Ies.window, ge=1, description="Passes of the moving average.")


class StrategyConfig(Settings):
    """Method, budget and exclusion rule of a search."""

    method: str = Field("msft", description="A method or a preset; `msft methods` lists both.")
    options: Options = Field(Options(), description="Options of the method, see below.")
    max_epochs: float = Field(gt=0, description="Total budget in full-mixture epochs, including discarded ones.")
    max_rounds: int | None = Field(None, ge=1, description="Limit on rounds. null: no limit.")
    compute_budget_epochs: float = Field(
        2.0, gt=0, description="C: epochs of one roll-out (measured: C=1 lost to SFT, C=2 and C=3 did not)."
    )
    evals_per_epoch: int = Field(4, ge=1, description="Evaluations per epoch (paper, section 4.1).")
    rule: Literal["guarded", "paper", "paired"] = Field(
        "guarded",
        description="paper: overfits after any earlier peak; guarded: only with a drop above min_delta; paired: only "
        "if its own validation rows, tested pairwise at its peak and now, say so (of searches in which nothing falls, "
        "at most 5 % exclude anything; such a search takes the steps of SFT).",
    )
    min_delta: float = Field(
        0.05, ge=0, description="Score lost from peak to end before a sub-dataset overfits (measured)."
    )
    exclude_per_round: int = Field(1, ge=1, description="Most sub-datasets that one round excludes.")
    optimizer_on_rollback: Literal["restore", "reset"] = Field(
        "restore", description="Measured: restore 85.3, reset 81.4, SFT 82.1; the reference resets."
    )
    champion: Literal["best", "soup"] = Field(
        "best",
        description="best: the checkpoint with the best mean validation score; soup: the average of checkpoints, "
        "discarded ones too, each added in the order of their scores if the mean score does not fall.",
    )
    protocol: Literal["validation", "paper"] = Field(
        "validation", description="paper: select on the test splits, as the paper does; the report says so."
    )

    @model_validator(mode="after")
    def _settings_take_effect(self) -> StrategyConfig:
        for setting in RULES:
            if self.is_changed(setting) and not takes(self.method, setting, getattr(self, setting)):
                raise ValueError(f"{setting} takes no effect with method={self.method}; leave it out")
        if self.rule != "guarded" and self.is_changed("min_delta"):
            raise ValueError(f"min_delta takes no effect with rule={self.rule}; leave one of them out")
        unused = sorted({"persist", "readmit_drop"} & self.options.model_fields_set) if self.rule == "paired" else []
        if unused:
            raise ValueError(f"options.{unused[0]} takes no effect with rule=paired; leave one of them out")
        if self.protocol == "paper" and self.champion == "soup":
            raise ValueError("champion=soup would average by test scores with protocol=paper; leave one of them out")
        return self

    def strategy(self) -> Strategy:
        """Return the method's strategy with these settings."""
        level = ERROR / self._most_looks() if self.rule == "paired" else None
        rule = ExclusionRule(literal=self.rule == "paper", min_delta=self.min_delta, level=level)
        return strategy_of(self.method, vars(self), rule, self.options.model_dump())

    def _most_looks(self) -> int:
        """Return how often a search decides until it excludes anything: once a roll-out."""
        all_intervals, own = (round(e * self.evals_per_epoch) for e in (self.max_epochs, self.compute_budget_epochs))
        looks = -(-max(1, all_intervals) // max(1, own))
        return looks if self.max_rounds is None else min(looks, self.max_rounds)

    @property
    def goes_back(self) -> bool:
        """Return whether a decision may continue training from any checkpoint of a roll-out."""
        return METHODS[self.method].goes_back

    def policy(self) -> Policy | None:
        """Return what the method does inside the training worker; None: it draws rows by plan and trains them all."""
        return policy_of(self.method, self.options.model_dump())


def _section(options: Options, *methods: Any) -> type[StrategyConfig]:
    """Return the section `search` of methods that share their options."""
    fields: dict[str, Any] = {"method": (Literal[methods], methods[0]), "options": (type(options), options)}
    return create_model(f"{methods[0].title().replace('_', '')}Search", __base__=StrategyConfig, **fields)


_ALL = (
    _section(MsftOptions(), "msft"),
    _section(ForwardOptions(), "forward"),
    _section(Options(), "sft", "continual_sft", "sro_sft", "soft_sro_sft"),
    _section(DynamixOptions(), "dynamix_sft"),
    _section(IesOptions(), "ies"),
)
SECTIONS = {method: one for one in _ALL for method in get_args(one.model_fields["method"].annotation)}


def _method_of(value: Any) -> str:
    method = value.get("method", "msft") if isinstance(value, Mapping) else getattr(value, "method", "msft")
    section = SECTIONS.get(method) if isinstance(method, str) else None
    return section.__name__ if section is not None else str(method)


# What a configuration's `search` is checked by: for type checkers it is a StrategyConfig.
SEARCH: Any = Annotated[reduce(or_, (Annotated[one, Tag(one.__name__)] for one in _ALL)), Discriminator(_method_of)]
