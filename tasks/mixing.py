"""Build the mixture of a round from the state and the inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from tasks.algorithm.mixture import plan_mixture
from tasks.algorithm.state import SearchState
from tasks.config.schema import SearchConfig
from tasks.contracts import CheckpointRef, Inputs, Mixture, SearchRun, SplitRef, SubDatasetDraws
from tasks.report import messages
from tasks.stage import stage

Relabelled = Mapping[str, SplitRef | None]  # rows of sub-datasets by name


@stage("build mixture", run_name="build mixture of round {state.round}")
def build_mixture(
    search: SearchRun, state: SearchState, start: CheckpointRef | None, relabelled: Relabelled | None = None
) -> Mixture:
    """Return and show the mixture of the round that follows `state`."""
    mixture = mixture_of(search.config, search.inputs, state, start, relabelled or {})
    messages.show_mixture(mixture)
    return mixture


def mixture_of(
    config: SearchConfig,
    inputs: Inputs,
    state: SearchState,
    start: CheckpointRef | None,
    relabelled: Relabelled = MappingProxyType({}),
) -> Mixture:
    """Return the mixture with its splits; each sub-dataset goes on from its data position in `start`.

    Args:
        relabelled: rows in place of those of excluded sub-datasets; None: none is left, and the sub-dataset with them.
    """
    weights = {name: one for name, one in (state.weights or {}).items() if relabelled.get(name, inputs) is not None}
    state = replace(state, weights=weights or None)
    plan = plan_mixture(config.mixture_settings, {part.name: part.train for part in inputs.sub_datasets}, state)
    draws = tuple(
        SubDatasetDraws(
            name=part.name,
            train=relabelled.get(part.name) or part.train,
            rows_per_epoch=plan.rows_per_epoch[part.name],
            cursor=start.cursors.get(part.name, 0) if start is not None else 0,
            is_rehearsed=part.name not in state.active,
        )
        for part in inputs.sub_datasets
        if part.name in plan.rows_per_epoch
    )
    shared = {name: value for name, value in vars(plan).items() if name in Mixture.model_fields}
    return Mixture(draws=draws, **shared)
