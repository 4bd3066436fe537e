"""The state of a search between two rounds, and how a decided round changes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tasks.algorithm.strategy import Decision, Opening


@dataclass(frozen=True, order=True)
class CheckpointKey:
    """Identify a checkpoint within one search; the step alone does not, because steps repeat after a rollback.

    Ordered by publication: round first, then optimizer step on the accepted path.
    """

    round: int
    step: int

    def __str__(self) -> str:
        return f"round {self.round} step {self.step}"


@dataclass(frozen=True)
class Exclusion:
    """One exclusion of a sub-dataset: its round, the checkpoint rolled back to, and the score there."""

    sub_dataset: str
    round: int
    checkpoint: CheckpointKey
    score: float


@dataclass(frozen=True)
class Champion:
    """The checkpoint with the best mean validation score over all N sub-datasets so far."""

    checkpoint: CheckpointKey
    score: float


@dataclass(frozen=True)
class SearchState:
    """State of a search between two rounds.

    Attributes:
        round: index of the next round, from 0.
        active: sub-datasets still in the mixture, in the mixture's order.
        excluded: exclusions in their order.
        checkpoint: where the next roll-out starts; None means the base model.
        optimizer: "restore" the optimizer's state with the weights for the next roll-out, or "reset" it.
        weights: factor on the share of each named sub-dataset, also of excluded ones; None: no change.
        relabelled: checkpoint of each excluded sub-dataset whose rows are rehearsed with that checkpoint's answers.
        kept: checkpoints that a later decision may give there.
        rollout_epochs: length of the next roll-out in epochs of its mixture; None: C.
        spent_examples: training examples consumed so far, including discarded ones.
        champion: best checkpoint ever published; None before the first evaluation.
        stop_reason: why the search ended, in words; empty while it goes on.
    """

    active: tuple[str, ...]
    round: int = 0
    excluded: tuple[Exclusion, ...] = ()
    checkpoint: CheckpointKey | None = None
    optimizer: str = "restore"
    weights: Mapping[str, float] | None = None
    relabelled: Mapping[str, CheckpointKey] = field(default_factory=dict)
    kept: tuple[CheckpointKey, ...] = ()
    rollout_epochs: float | None = None
    spent_examples: int = 0
    champion: Champion | None = None
    stop_reason: str = ""

    @property
    def is_finished(self) -> bool:
        """Return whether the search has ended."""
        return bool(self.stop_reason)

    @classmethod
    def opened(cls, sub_datasets: tuple[str, ...], opening: Opening) -> SearchState:
        """Return the state before the first round."""
        return cls(active=opening.active or sub_datasets, rollout_epochs=opening.rollout_epochs)

    def after(self, decided: DecidedRound) -> SearchState:
        """Return the state after a decided round."""
        decision = decided.decision
        target = decision.roll_back_to
        kept = (set(self.active) - set(decision.exclude)) | set(decision.include)
        stays_excluded = tuple(e for e in self.excluded if e.sub_dataset not in decision.include)
        stay_relabelled = {name: key for name, key in self.relabelled.items() if name not in decision.include}
        newly_excluded = tuple(
            Exclusion(name, self.round, target, decided.scores_at_target[name]) for name in decision.exclude
        )
        return replace(
            self,
            round=self.round + 1,
            active=tuple(name for name in decided.sub_datasets if name in kept),
            excluded=stays_excluded + newly_excluded,
            checkpoint=target,
            optimizer=decision.optimizer,
            weights=decision.weights,
            relabelled=stay_relabelled | dict(decision.relabel or {}),
            kept=decision.keep,
            rollout_epochs=decision.rollout_epochs,
            spent_examples=self.spent_examples + decided.examples,
            champion=decided.champion,
            stop_reason=decided.stop_reason,
        )


class DecidedRound(Protocol):
    """The part of a decided round that the state depends on.

    Attributes:
        sub_datasets: all of them, in the mixture's order.
        scores_at_target: score of each sub-dataset at the checkpoint rolled back to.
        champion: best checkpoint up to and including this round.
        examples: training rows that the round consumed, discarded ones counted.
        stop_reason: why the search ends; empty while it goes on.
    """

    @property
    def sub_datasets(self) -> tuple[str, ...]: ...
    @property
    def decision(self) -> Decision: ...
    @property
    def scores_at_target(self) -> Mapping[str, float]: ...
    @property
    def champion(self) -> Champion: ...
    @property
    def examples(self) -> int: ...
    @property
    def stop_reason(self) -> str: ...
