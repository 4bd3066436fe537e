"""The search: rounds until nothing is active or the budget is spent, then the champion."""

from __future__ import annotations

from prefect import flow

from flows.round import search_round
from tasks.base_model import prepare_base_model
from tasks.config import SearchConfig
from tasks.config_file import load_config
from tasks.contracts import ChampionResult, Inputs
from tasks.lifecycle import HANDOVER_S, crown_champion, open_search, own_directory, true_status
from tasks.preparation import prepare_sub_datasets
from tasks.reporting import report_round, write_report
from tasks.rollback import roll_back


@flow(name="msft-search", flow_run_name="search-{config.name}", persist_result=False)
def msft_search(config: SearchConfig) -> ChampionResult:
    """Search for the model that no sub-dataset over-fitted away, and return it.

    Run again after any interruption, it goes on from the last decision on record and the last checkpoint.
    """
    return _search(config)


@flow(name="msft-search-file", flow_run_name="search-{config}", persist_result=False)
def search_file(config: str, overrides: tuple[str, ...] = ()) -> ChampionResult:
    """Search with the configuration of a YAML file, as a deployment does.

    A run that Prefect reschedules may start while the one before still saves, so it waits for that to end.

    Args:
        config: the YAML file, as seen from the working directory of the run.
        overrides: values of the form a.b=c, which replace those of the file.
    """
    return _search(load_config(config, overrides), wait_s=HANDOVER_S)


def _search(config: SearchConfig, wait_s: float = 0.0) -> ChampionResult:
    with own_directory(config, wait_s) as directory:
        model = prepare_base_model(config)
        inputs = Inputs(model=model, sub_datasets=prepare_sub_datasets(config, model))
        search, state = open_search(config, directory, inputs)
        with true_status(search):
            report_round(search, state)
            checkpoint = None if state.is_finished else roll_back(search, state)
            while not state.is_finished:
                state, checkpoint = search_round(config, search, inputs, state, checkpoint)
            champion = crown_champion(config, search, inputs, state)
            write_report(config, search, state, champion)
            return champion
