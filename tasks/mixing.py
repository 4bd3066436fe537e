"""Build one round's mixture: how many rows of which sub-dataset, for how long."""

from __future__ import annotations

from tasks.algorithm.proportions import draws_per_epoch
from tasks.algorithm.state import SearchState
from tasks.config.schema import SearchConfig
from tasks.contracts import CheckpointRef, Inputs, Mixture, SearchRun, SubDatasetDraws, SubDatasetRef
from tasks.report import messages
from tasks.stage import stage


def plan_mixture(
    config: SearchConfig, inputs: Inputs, state: SearchState, start: CheckpointRef | None
) -> Mixture:
    """Return the mixture of the round that `state` is about to run.

    The roll-out lasts as long as the strategy asked for, else C epochs of this mixture, or what the total budget
    leaves; cut to whole evaluation intervals, and at least one. `start` gives the data position that each
    sub-dataset goes on from.
    """
    factors = dict.fromkeys(state.active, 1.0) | dict(state.weights or {})
    parts = [part for part in inputs.sub_datasets if part.name in factors]
    rows = {part.name: part.train.num_rows for part in parts}
    tokens = {part.name: part.train.num_tokens for part in parts}
    draws = draws_per_epoch(rows, tokens, config.mixture.proportions, config.mixture.share_unit)
    draws = {name: max(1, round(count * factors[name])) for name, count in draws.items()}
    epoch_rows = sum(draws.values())
    full_epoch_rows = sum(part.train.num_rows for part in inputs.sub_datasets)
    intervals = _num_intervals(config, state, full_epoch_rows, epoch_rows)
    epochs = intervals / config.search.evals_per_epoch
    num_rows = max(1, round(epochs * epoch_rows))
    num_steps = -(-num_rows // config.training.batch_size)
    evaluated = {max(1, round(number * num_steps / intervals)) for number in range(1, intervals + 1)}
    drawn_tokens = {name: draws[name] * tokens[name] / rows[name] for name in rows}
    return Mixture(
        round=state.round,
        draws=tuple(_draws(part, draws[part.name], start, part.name not in state.active) for part in parts),
        epoch_rows=epoch_rows,
        full_epoch_rows=full_epoch_rows,
        epochs=epochs,
        num_rows=num_rows,
        num_steps=num_steps,
        evaluation_offsets=tuple(sorted(evaluated)),
        example_shares={name: draws[name] / epoch_rows for name in rows},
        token_shares={name: count / sum(drawn_tokens.values()) for name, count in drawn_tokens.items()},
    )


def _draws(
    part: SubDatasetRef, rows_per_epoch: int, start: CheckpointRef | None, is_rehearsed: bool
) -> SubDatasetDraws:
    cursor = start.cursors.get(part.name, 0) if start is not None else 0
    return SubDatasetDraws(
        name=part.name,
        train=part.train,
        rows_per_epoch=rows_per_epoch,
        cursor=cursor,
        is_rehearsed=is_rehearsed,
    )


@stage("build mixture", run_name="build mixture of round {state.round}")
def build_mixture(search: SearchRun, state: SearchState, start: CheckpointRef | None) -> Mixture:
    """Return and print the round's mixture; see `plan_mixture`."""
    mixture = plan_mixture(search.config, search.inputs, state, start)
    messages.show_mixture(mixture)
    return mixture


def _num_intervals(config: SearchConfig, state: SearchState, full_epoch_rows: int, epoch_rows: int) -> int:
    search = config.search
    wanted_epochs = state.rollout_epochs or search.compute_budget_epochs
    wanted = round(wanted_epochs * search.evals_per_epoch)
    rows_left = search.max_epochs * full_epoch_rows - state.spent_examples
    affordable = int(rows_left / epoch_rows * search.evals_per_epoch + 1e-9)
    return max(1, min(wanted, affordable))
