"""One round: a one-way walk from the mixture to the checkpoint that the next round starts from."""

from __future__ import annotations

from prefect import flow

from tasks.algorithm.state import SearchState
from tasks.config.schema import SearchConfig
from tasks.contracts import CheckpointRef, Inputs, SearchRef
from tasks.evaluation import evaluate_checkpoints
from tasks.mixing import build_mixture
from tasks.pruning import decide_pruning
from tasks.report.prefect_artifacts import round_run_name
from tasks.reporting import report_round
from tasks.rollback import roll_back
from tasks.training import register_checkpoints, train_rollout


@flow(name="search-round", flow_run_name=round_run_name, persist_result=False)
def search_round(
    config: SearchConfig, search: SearchRef, inputs: Inputs, state: SearchState, start: CheckpointRef | None
) -> tuple[SearchState, CheckpointRef | None]:
    """Train one roll-out and exclude at most `exclude_per_round` sub-datasets."""
    mixture = build_mixture(config, inputs, state, start)
    rollout = train_rollout(config, search, inputs, mixture, state, start)
    register_checkpoints(search, mixture, rollout)
    curves = evaluate_checkpoints(config, search, inputs, rollout)
    state = decide_pruning(config, search, inputs, mixture, rollout, curves)
    report_round(search, state)
    return state, roll_back(search, state)
