"""The search: rounds until nothing is active or the budget is spent, then the champion."""

from __future__ import annotations

from prefect import flow

from flows.round import search_round
from tasks.base_model import prepare_base_model
from tasks.config import SearchConfig
from tasks.contracts import ChampionResult, Inputs
from tasks.lifecycle import crown_champion, open_search, true_status
from tasks.ownership import own_directory, own_gpus
from tasks.preparation import prepare_sub_datasets
from tasks.reporting import report_round, write_report
from tasks.rollback import roll_back


@flow(name="msft-search", flow_run_name="search-{config.name}", persist_result=False)
def msft_search(config: SearchConfig, accept_changes: bool = False) -> ChampionResult:
    """Search for the model that no sub-dataset over-fitted away, and return it.

    Run again after any interruption, it goes on from the last decision on record and the last checkpoint;
    `accept_changes` lets it do so on other packages or processes than it began with.
    """
    with own_directory(config) as directory, own_gpus(config):
        model = prepare_base_model(config)
        inputs = Inputs(model=model, sub_datasets=prepare_sub_datasets(config, model))
        search, state = open_search(config, directory, inputs, accept_changes)
        with true_status(search):
            report_round(search, state)
            checkpoint = None if state.is_finished else roll_back(search, state)
            while not state.is_finished:
                state, checkpoint = search_round(config, search, inputs, state, checkpoint)
            champion = crown_champion(config, search, inputs, state)
            write_report(config, search, state, champion)
            return champion
