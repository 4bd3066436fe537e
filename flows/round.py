"""One round: a one-way walk from the mixture to the checkpoint that the next round starts from."""

from __future__ import annotations

from prefect import flow

from tasks.contracts import RegisteredCheckpoint, SearchRun
from tasks.evaluation import evaluate_checkpoints
from tasks.mixing import build_mixture
from tasks.pruning import decide_pruning, record_decision
from tasks.record.journal import History
from tasks.relabelling import relabelled, relabelled_splits
from tasks.report.prefect_artifacts import round_run_name
from tasks.reporting import report_round
from tasks.rollback import roll_back
from tasks.suspects import find_suspects
from tasks.training import register_checkpoints, train_rollout


@flow(name="search-round", flow_run_name=round_run_name, persist_result=False)
def search_round(
    search: SearchRun, history: History, start: RegisteredCheckpoint | None
) -> tuple[History, RegisteredCheckpoint | None]:
    """Train one roll-out and exclude at most `exclude_per_round` sub-datasets."""
    mixture = build_mixture(search, history.state, start, relabelled_splits(search.ref, history))
    rollout = train_rollout(search, mixture, history.state, start)
    checkpoints = register_checkpoints(search.ref, mixture, rollout)
    curves = evaluate_checkpoints(search, checkpoints, start)
    if search.config.evaluation.suspects:
        curves = find_suspects(search, history, curves, checkpoints)
    decided = decide_pruning(search.config, history, mixture, rollout, curves)
    history = record_decision(search.ref, history, decided)
    report_round(search.ref, history)
    history = relabelled(search, history)
    return history, roll_back(search.ref, history.state, search.config.search.champion)
