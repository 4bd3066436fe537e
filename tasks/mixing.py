"""Build the mixture of a round from the state and the inputs."""

from __future__ import annotations

from tasks.algorithm.mixture import plan_mixture
from tasks.algorithm.state import SearchState
from tasks.config.schema import SearchConfig
from tasks.contracts import CheckpointRef, Inputs, Mixture, SearchRun, SubDatasetDraws
from tasks.report import messages
from tasks.stage import stage


@stage("build mixture", run_name="build mixture of round {state.round}")
def build_mixture(search: SearchRun, state: SearchState, start: CheckpointRef | None) -> Mixture:
    """Return and show the mixture of the round that follows `state`."""
    mixture = mixture_of(search.config, search.inputs, state, start)
    messages.show_mixture(mixture)
    return mixture


def mixture_of(config: SearchConfig, inputs: Inputs, state: SearchState, start: CheckpointRef | None) -> Mixture:
    """Return the mixture with its splits; each sub-dataset goes on from its data position in `start`."""
    plan = plan_mixture(config.mixture_settings, {part.name: part.train for part in inputs.sub_datasets}, state)
    draws = tuple(
        SubDatasetDraws(
            name=part.name,
            train=part.train,
            rows_per_epoch=plan.rows_per_epoch[part.name],
            cursor=start.cursors.get(part.name, 0) if start is not None else 0,
            is_rehearsed=part.name not in state.active,
        )
        for part in inputs.sub_datasets
        if part.name in plan.rows_per_epoch
    )
    shared = {name: value for name, value in vars(plan).items() if name in Mixture.model_fields}
    return Mixture(draws=draws, **shared)
