"""Several methods and seeds on the machinery of the search, under one run of MLflow."""

from __future__ import annotations

from prefect import flow

from flows.search import msft_search
from tasks.commands.flow_runs import emits_end_event, fill_in_run_number
from tasks.comparison.parallel import Arm
from tasks.comparison.report import report_comparison
from tasks.comparison.runs import (
    comparison_of,
    open_comparison,
    plan_comparison,
    refuse_failures,
    run_searches,
)
from tasks.config.loading import load_shown_config
from tasks.config.schema import SearchConfig
from tasks.contracts import ChampionResult, SearchRef
from tasks.opening import mark_failed_on_error
from tasks.record.ownership import HANDOVER_S


@flow(name="msft-compare", flow_run_name="compare-{config.name}", persist_result=False)
def compare_methods(
    config: SearchConfig,
    methods: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (),
    control: str = "",
    parallel: int | None = None,
) -> SearchRef:
    """Search with each method and seed at one budget, `search.max_epochs`, and report their test scores and costs.

    Run again, it takes searches that have ended as they are, and goes on with the others.
    """
    return _compare(config, methods, seeds, control, parallel)


@emits_end_event
@flow(name="msft-compare-file", flow_run_name="compare-{config}", persist_result=False)
def compare_file(
    config: str,
    methods: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (),
    control: str = "",
    overrides: tuple[str, ...] = (),
) -> None:
    """Compare with the configuration of a YAML file, as a deployment does.

    A run that Prefect reschedules may start while a search of the one before still saves, so each waits for that.

    Args:
        config: the YAML file, as seen from the working directory of the run.
        methods: by their names; none: SFT and mSFT.
        seeds: none: that of the file.
        control: the method that the others are measured against; none: SFT if it is compared, or else the first.
        overrides: values of the form a.b=c, which replace those of the file; {run} in them is the run's own number.
    """
    loaded = load_shown_config(config, fill_in_run_number(overrides))
    _compare(loaded, methods, seeds, control, wait_s=HANDOVER_S)


def _compare(
    config: SearchConfig,
    methods: tuple[str, ...],
    seeds: tuple[int, ...],
    control: str,
    parallel: int | None = None,
    wait_s: float = 0.0,
) -> SearchRef:
    arms, control = plan_comparison(config, methods, seeds, control)
    with mark_failed_on_error(comparison_of(config, arms, control), config.tracking.experiment):
        comparison = open_comparison(config, arms, control)
        outcomes = run_searches(
            config, comparison, arms, lambda arm: search_arm(arm, comparison, wait_s), parallel
        )
        report_comparison(config, comparison, control, outcomes)
        refuse_failures(outcomes)
    return comparison


def search_arm(arm: Arm, comparison: SearchRef, wait_s: float = 0.0) -> ChampionResult:
    """Run the search of one method and seed as a part of the comparison."""
    return msft_search(arm.config, parent_run_id=comparison.run_id, wait_s=wait_s)
