"""The mixture of a round: rows per sub-dataset, length of the roll-out, and the end of the budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from tasks.algorithm.state import SearchState
from tasks.algorithm.strategy import Decision


class TrainSplit(Protocol):
    """Size of a sub-dataset's train split."""

    @property
    def num_rows(self) -> int: ...
    @property
    def num_tokens(self) -> int: ...


class Planned(Protocol):
    """The part of a mixture that the end of a search depends on, as in `MixturePlan`."""

    @property
    def epoch_rows(self) -> int: ...
    @property
    def full_epoch_rows(self) -> int: ...
    @property
    def num_rows(self) -> int: ...
    @property
    def part_of(self) -> tuple[int, int] | None: ...


@dataclass(frozen=True)
class MixtureSettings:
    """Settings that determine the mixtures and the end of a search, as in `config/`; C is `compute_budget_epochs`."""

    proportions: Literal["by_size", "equal"] | Mapping[str, float]
    share_unit: Literal["examples", "tokens"]
    batch_size: int
    compute_budget_epochs: float
    evals_per_epoch: int
    max_epochs: float
    max_rounds: int | None
    continues: bool = False  # as long as nothing is excluded, roll-outs take the steps of one of the whole budget


@dataclass(frozen=True)
class MixturePlan:
    """The mixture of one round.

    Attributes:
        rows_per_epoch: rows of each sub-dataset in one epoch of this mixture, in the mixture's order.
        epoch_rows, full_epoch_rows: rows in one epoch of this mixture, and of all N sub-datasets (the budget's unit).
        epochs, num_rows, num_steps: length of the roll-out; epochs are of this mixture.
        evaluation_offsets: steps after the roll-out's start at which a checkpoint is published, ascending.
        example_shares, token_shares: realized share of each sub-dataset.
        part_of: where the roll-out is a part of one of the whole budget, the rows of that before it, and in all.
    """

    round: int
    rows_per_epoch: dict[str, int]
    epoch_rows: int
    full_epoch_rows: int
    epochs: float
    num_rows: int
    num_steps: int
    evaluation_offsets: tuple[int, ...]
    example_shares: dict[str, float]
    token_shares: dict[str, float]
    part_of: tuple[int, int] | None = None

    @property
    def steps_per_epoch(self) -> float:
        """Return the optimizer steps in one epoch of this mixture."""
        return self.num_steps / self.epochs


def plan_mixture(settings: MixtureSettings, splits: Mapping[str, TrainSplit], state: SearchState) -> MixturePlan:
    """Return the mixture of the round that follows `state`.

    The roll-out lasts as long as the strategy asks for, by default C epochs, within the remaining budget; it is cut
    to whole evaluation intervals, and at least one.

    Args:
        splits: the train splits of all sub-datasets, in the mixture's order.
    """
    if settings.continues and not state.excluded and set(state.active) == set(splits):
        return _next_part(settings, splits, state)
    factors = dict.fromkeys(state.active, 1.0) | dict(state.weights or {})
    rows = {name: split.num_rows for name, split in splits.items() if name in factors}
    tokens = {name: splits[name].num_tokens for name in rows}
    draws = draws_per_epoch(rows, tokens, settings.proportions, settings.share_unit)
    draws = {name: max(1, round(count * factors[name])) for name, count in draws.items()}
    epoch_rows = sum(draws.values())
    full_epoch_rows = sum(split.num_rows for split in splits.values())
    intervals = _num_intervals(settings, state, full_epoch_rows, epoch_rows)
    epochs = intervals / settings.evals_per_epoch
    num_rows = max(1, round(epochs * epoch_rows))
    num_steps = -(-num_rows // settings.batch_size)
    evaluated = {max(1, round(number * num_steps / intervals)) for number in range(1, intervals + 1)}
    drawn_tokens = {name: draws[name] * tokens[name] / rows[name] for name in rows}
    return MixturePlan(
        round=state.round,
        rows_per_epoch={name: draws[name] for name in rows},
        epoch_rows=epoch_rows,
        full_epoch_rows=full_epoch_rows,
        epochs=epochs,
        num_rows=num_rows,
        num_steps=num_steps,
        evaluation_offsets=tuple(sorted(evaluated)),
        example_shares={name: draws[name] / epoch_rows for name in rows},
        token_shares={name: count / sum(drawn_tokens.values()) for name, count in drawn_tokens.items()},
    )


def _next_part(settings: MixtureSettings, splits: Mapping[str, TrainSplit], state: SearchState) -> MixturePlan:
    """Return the next C epochs of one roll-out of the whole budget, to the evaluation at their end."""
    fresh = SearchState(active=state.active, rollout_epochs=settings.max_epochs)
    whole = plan_mixture(replace(settings, continues=False), splits, fresh)
    done = state.checkpoint.step if state.checkpoint is not None else 0
    left = [offset - done for offset in whole.evaluation_offsets if offset > done]
    offsets = tuple(left[: max(1, round(settings.compute_budget_epochs * settings.evals_per_epoch))])
    rows_before = done * settings.batch_size
    return replace(
        whole,
        round=state.round,
        epochs=len(offsets) / settings.evals_per_epoch,
        num_rows=min(offsets[-1] * settings.batch_size, whole.num_rows - rows_before),
        num_steps=offsets[-1],
        evaluation_offsets=offsets,
        part_of=(rows_before, whole.num_rows),
    )


def _num_intervals(settings: MixtureSettings, state: SearchState, full_epoch_rows: int, epoch_rows: int) -> int:
    requested = round((state.rollout_epochs or settings.compute_budget_epochs) * settings.evals_per_epoch)
    rows_left = settings.max_epochs * full_epoch_rows - state.spent_examples
    affordable = int(rows_left / epoch_rows * settings.evals_per_epoch + 1e-9)
    return max(1, min(requested, affordable))


def stop_reason_of(
    settings: MixtureSettings, plan: Planned, before: SearchState, decision: Decision, examples: int
) -> str:
    """Return why the search ends with this decision; empty while it goes on.

    Args:
        plan: the round's mixture.
        before: the state at the start of the round.
        examples: training rows that the round consumed.
    """
    epoch_rows, full_epoch_rows = plan.epoch_rows, plan.full_epoch_rows
    active = (set(before.active) - set(decision.exclude)) | set(decision.include)
    spent = (before.spent_examples + examples) / full_epoch_rows
    interval = epoch_rows / full_epoch_rows / settings.evals_per_epoch
    if decision.stop:
        return decision.stop
    if not active:
        return "no sub-dataset is active any more"
    if settings.max_rounds is not None and before.round + 1 >= settings.max_rounds:
        return f"search.max_rounds = {settings.max_rounds} is reached"
    is_whole = plan.part_of is not None and sum((plan.part_of[0], plan.num_rows)) == plan.part_of[1]
    if spent + interval / 2 > settings.max_epochs or (is_whole and not decision.exclude):
        return f"{spent:.2f} of search.max_epochs = {settings.max_epochs:g} epochs are spent"
    return ""


def shares_of(sizes: Mapping[str, float], proportions: str | Mapping[str, float]) -> dict[str, float]:
    """Return each active sub-dataset's share of an epoch, from their sizes in examples or tokens; they sum to 1.

    `proportions` are "by_size" (each row once an epoch), "equal", or weights; those of excluded ones are dropped.
    """
    if isinstance(proportions, str):
        weights = dict(sizes) if proportions == "by_size" else dict.fromkeys(sizes, 1.0)
    else:
        weights = {name: proportions[name] for name in sizes}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def draws_per_epoch(
    num_rows: Mapping[str, int], num_tokens: Mapping[str, int], proportions: str | Mapping[str, float], share_unit: str
) -> dict[str, int]:
    """Return how many rows of each sub-dataset one epoch draws; the total is the mixture's row count.

    With `share_unit="tokens"` the epoch has about the mixture's number of tokens instead, and fewer rows of a
    sub-dataset of long rows. Rounded by largest remainder, at least one row each.
    """
    if share_unit == "examples":
        shares = shares_of(num_rows, proportions)
        exact = {name: share * sum(num_rows.values()) for name, share in shares.items()}
    else:
        shares, budget = shares_of(num_tokens, proportions), sum(num_tokens.values())
        exact = {name: shares[name] * budget * num_rows[name] / num_tokens[name] for name in num_rows}
    draws = {name: int(value) for name, value in exact.items()}
    missing = round(sum(exact.values())) - sum(draws.values())
    by_remainder = sorted(exact, key=lambda name: draws[name] - exact[name])
    for name in by_remainder[:missing]:
        draws[name] += 1
    return {name: max(1, count) for name, count in draws.items()}
