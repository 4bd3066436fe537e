"""The state of a search as the fold of its journal's events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, order=True)
class CheckpointKey:
    """Name a checkpoint within one search; steps repeat after a rollback, so a step alone never does.

    Ordered by publication: round first, then optimizer step on the accepted path.
    """

    round: int
    step: int

    def __str__(self) -> str:
        return f"round {self.round} step {self.step}"


@dataclass(frozen=True)
class Exclusion:
    """One sub-dataset that left the mixture: when, where it is rolled back to, and its score there in [0, 1]."""

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
    """Where a search stands between two rounds.

    Attributes:
        round: index of the next round, from 0.
        active: sub-datasets still in the mixture, in the mixture's order.
        excluded: exclusions in the order they happened.
        checkpoint: where the next roll-out starts; None means the base model.
        optimizer: whether the next roll-out restores the optimizer's state with the weights, or resets it.
        weights: factor on the share of each sub-dataset named, excluded ones too; None: none is changed.
        rollout_epochs: length of the next roll-out in epochs of its mixture; None: C.
        spent_examples: training examples consumed so far, discarded ones counted.
        champion: best checkpoint ever published; None before the first evaluation.
        stop_reason: why the search ended, in words; empty while it goes on.
    """

    active: tuple[str, ...]
    round: int = 0
    excluded: tuple[Exclusion, ...] = ()
    checkpoint: CheckpointKey | None = None
    optimizer: str = "restore"
    weights: Mapping[str, float] | None = None
    rollout_epochs: float | None = None
    spent_examples: int = 0
    champion: Champion | None = None
    stop_reason: str = ""

    @property
    def is_finished(self) -> bool:
        """Say whether no further round is to be run."""
        return bool(self.stop_reason)


def fold(events: Iterable[Mapping[str, Any]]) -> SearchState | None:
    """Return the state after `events`, in their order; None before the search's first event.

    Each round contributes one `round_decided` event; everything else on record is commentary, so a search that
    was interrupted inside a round resumes at that round's start.
    """
    state: SearchState | None = None
    for event in events:
        if event["event"] == "search_started":
            opening = event.get("opening", {})
            active = opening.get("active") or event["sub_datasets"]
            state = SearchState(active=tuple(active), rollout_epochs=opening.get("rollout_epochs"))
        elif event["event"] == "round_decided":
            if state is None or event["round"] != state.round:
                raise ValueError(f"decision of round {event['round']} out of order")
            state = advance(state, event)
    return state


def advance(state: SearchState, event: Mapping[str, Any]) -> SearchState:
    """Return the state after one `round_decided` event."""
    decision = event["decision"]
    target = CheckpointKey(**decision["roll_back_to"])
    kept = (set(state.active) - set(decision["exclude"])) | set(decision["include"])
    stays_excluded = tuple(e for e in state.excluded if e.sub_dataset not in decision["include"])
    newly_excluded = tuple(
        Exclusion(name, state.round, target, event["scores_at_target"][name]) for name in decision["exclude"]
    )
    return replace(
        state,
        round=state.round + 1,
        active=tuple(name for name in event["sub_datasets"] if name in kept),
        excluded=stays_excluded + newly_excluded,
        checkpoint=target,
        optimizer=decision["optimizer"],
        weights=decision["weights"],
        rollout_epochs=decision.get("rollout_epochs"),
        spent_examples=state.spent_examples + event["examples"],
        champion=Champion(CheckpointKey(**event["champion"]["checkpoint"]), event["champion"]["score"]),
        stop_reason=event["stop_reason"],
    )
