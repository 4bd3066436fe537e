"""A search from Python, such as in a notebook, with its result as DataFrames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.config.loading import load_config
from tasks.report.terminal import log_to_terminal
from tasks.runtime.processes import settle_environment

if TYPE_CHECKING:
    import pandas as pd

    from tasks.contracts import ChampionResult


@dataclass(frozen=True)
class SearchResult:
    """A finished search; the frames are those of its `report/*.csv`."""

    directory: str  # of the search
    champion: str  # directory of the best model: AutoModelForCausalLM.from_pretrained(champion)
    curves: pd.DataFrame  # a validation score of a sub-dataset at a checkpoint a row
    decisions: pd.DataFrame  # a round a row
    scores: pd.DataFrame  # the champion's, a split of a sub-dataset a row
    ledger: pd.DataFrame  # a kind of work a row


def search(config: str, *overrides: str, quiet: bool = False) -> SearchResult:
    """Search as `msft search` does, and return the result; a finished search is not run again.

    Args:
        config: a YAML file, or the name of an example such as `quickstart`.
        overrides: values of the form a.b=c, which replace those of the file.
        quiet: print warnings only.
    """
    settle_environment()  # before Prefect is imported
    log_to_terminal(quiet=quiet)
    from tasks.runtime.prefect_server import run_flow

    loaded = load_config(config, overrides)

    def run() -> ChampionResult:
        from flows.search import msft_search

        return msft_search(loaded)

    champion = run_flow(run, loaded.output_root, "flows.search")
    from tasks.record.ownership import directory_of
    from tasks.record.view import read_view
    from tasks.reporting import frames_of

    directory = str(directory_of(loaded))
    frames = frames_of(read_view(directory))
    shown = {name: frames[name] for name in ("curves", "decisions", "scores", "ledger")}
    return SearchResult(directory, champion.directory, **shown)
