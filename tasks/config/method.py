"""The configuration of a search's rounds: its method, its budget and when a sub-dataset overfits."""

from __future__ import annotations

import difflib
from typing import Any, Literal, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from tasks.algorithm.exclusion import ExclusionRule
from tasks.algorithm.methods import METHODS, RULES, options_of, policy_of, strategy_of, takes
from tasks.algorithm.strategy import Strategy
from tasks.config.section import Settings, is_changed


class StrategyConfig(Settings):
    """The search's rounds; `search.md` of the project's design gives each rule with its measurement."""

    method: str = Field("msft", description=f"One of {', '.join(METHODS)}.")
    options: dict[str, Any] = Field({}, description="What the method alone knows; its file names them.")
    max_epochs: float = Field(
        gt=0, description="Total budget in full-mixture epochs, discarded ones counted."
    )
    max_rounds: int | None = Field(None, ge=1)
    compute_budget_epochs: float = Field(
        2.0, gt=0, description="C: epochs of one roll-out (measured: C=1 lost to SFT, C=2 and C=3 did not)."
    )
    evals_per_epoch: int = Field(4, ge=1, description="Paper, section 4.1.")
    rule: Literal["guarded", "paper"] = Field(
        "guarded",
        description="paper: the literal rule, any earlier peak; guarded: and a drop above min_delta.",
    )
    min_delta: float = Field(
        0.05, ge=0, description="Score lost from peak to end before a sub-dataset overfits (measured)."
    )
    exclude_per_round: int = Field(1, ge=1)
    optimizer_on_rollback: Literal["restore", "reset"] = Field(
        "restore", description="Measured: restore 85.3, reset 81.4, SFT 82.1; the reference resets."
    )
    protocol: Literal["validation", "paper"] = Field(
        "validation", description="paper: selects on the test splits as the paper does; the report says so."
    )

    @field_validator("method")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in METHODS:
            near = difflib.get_close_matches(value, METHODS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(METHODS)}"
            raise ValueError(f"no method {value!r}; {hint}")
        return value

    @model_validator(mode="after")
    def _options_take_effect(self) -> StrategyConfig:
        for setting in RULES:
            if is_changed(self, setting) and not takes(self.method, setting):
                raise ValueError(f"{setting} takes no effect with method={self.method}; leave it out")
        if self.rule == "paper" and is_changed(self, "min_delta"):
            raise ValueError("min_delta takes no effect with rule=paper; leave one of them out")
        self._check_options()
        return self

    def _check_options(self) -> None:
        owner, known = options_of(self.method)
        types = get_type_hints(owner)
        for name, value in self.options.items():
            if name not in known:
                wanted = f"known: {', '.join(known)}" if known else "it has none"
                raise ValueError(f"method={self.method} has no option {name!r}; {wanted}")
            try:
                TypeAdapter(types[name]).validate_python(value, strict=True)
            except ValidationError as error:
                raise ValueError(f"options.{name}: {error.errors()[0]['msg']}; got {value!r:.80}") from None
        self.strategy()
        policy_of(self.method, self.options)

    def strategy(self) -> Strategy:
        """Return the method's strategy with these settings."""
        rule = ExclusionRule(literal=self.rule == "paper", min_delta=self.min_delta)
        return strategy_of(self.method, vars(self), rule, self.options)
