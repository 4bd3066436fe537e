"""The search: rounds until nothing is active or the budget is spent, then the champion."""

from __future__ import annotations

from prefect import flow

from flows.round import search_round
from tasks.champion import crown_champion
from tasks.commands.deploy import emits_end_event, fill_in_run_number
from tasks.config.loading import load_shown_config
from tasks.config.schema import SearchConfig
from tasks.contracts import ChampionResult, SearchRun
from tasks.freezing import compute_frozen_layers
from tasks.opening import check_for_drift, mark_failed_on_error, open_search, reference_to
from tasks.preparation import prepare_inputs
from tasks.record.ownership import HANDOVER_S, QUEUE_S, own_cache, own_directory, own_gpus
from tasks.relabelling import relabelled, relabelled_splits
from tasks.report.prefect_artifacts import log_to_run_page, search_run_name
from tasks.reporting import report_round, write_report
from tasks.rollback import roll_back
from tasks.runtime.pool import worker_pool
from tasks.soup import average_checkpoints
from tasks.training import group_of, start_workers


@flow(name="msft-search", flow_run_name=search_run_name, persist_result=False)
def msft_search(
    config: SearchConfig,
    accept_changes: bool = False,
    parent_run_id: str = "",
    wait_s: float = 0.0,
    shares_gpus: bool = False,
) -> ChampionResult:
    """Search for the model with the best mean validation score over all sub-datasets, and return it.

    Run again after any interruption, it continues from the last decision on record and the last checkpoint.

    Args:
        config: its settings.
        accept_changes: continue with other packages or processes than the search began with.
        parent_run_id: the MLflow run of the comparison that the search is part of.
        wait_s: how long to wait for another process that still saves.
        shares_gpus: let other such searches use the same GPUs.
    """
    return _search(config, accept_changes, wait_s, parent_run_id, shares_gpus)


@emits_end_event
@flow(name="msft-search-file", flow_run_name=search_run_name, persist_result=False)
def search_file(
    config: str, overrides: tuple[str, ...] = (), accept_changes: bool = False, parent_run_id: str = ""
) -> ChampionResult:
    """Search with the configuration of a YAML file, as a deployment does.

    A run that Prefect reschedules may start while the one before still saves, so it waits for that to end.

    Args:
        config: the YAML file, as seen from the working directory of the run.
        overrides: values of the form a.b=c, which replace those of the file; {run} in them is the run's own number.
            Prefect shows them, so that none may hold a password.
        accept_changes: go on with other packages or processes than the search began with.
        parent_run_id: the MLflow run of the comparison that has placed the search here.
    """
    log_to_run_page()
    loaded = load_shown_config(config, fill_in_run_number(overrides))
    return _search(loaded, accept_changes, QUEUE_S if parent_run_id else HANDOVER_S, parent_run_id)


def _search(
    config: SearchConfig, accept_changes: bool, wait_s: float = 0.0, parent_run_id: str = "", shares_gpus: bool = False
) -> ChampionResult:
    with (
        own_directory(config, wait_s) as directory,
        own_gpus(config, wait_s, is_shared=shares_gpus),
        worker_pool(directory, group_of(config, directory)),
    ):
        start_workers(config, directory)
        with own_cache(config):
            inputs = prepare_inputs(config)
        search = SearchRun(ref=reference_to(config, directory), config=config, inputs=inputs)
        check_for_drift(search, accept_changes)
        with mark_failed_on_error(search.ref, config.tracking.experiment):
            search, history = open_search(search, parent_run_id)
            report_round(search.ref, history)
            if inputs.model.trainable_layers is not None and not history.state.is_finished:
                compute_frozen_layers(search, relabelled_splits(search.ref, history))
            history = relabelled(search, history)
            start = None if history.state.is_finished else roll_back(search.ref, history.state, config.search.champion)
            while not history.state.is_finished:
                history, start = search_round(search, history, start)
            soup = average_checkpoints(search, history) if config.search.champion == "soup" else None
            history = crown_champion(search, history, soup)
            write_report(search.ref, history)
            return history.champion
