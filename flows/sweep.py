"""A grid of settings on the machinery of the search, under one run of MLflow."""

from __future__ import annotations

from prefect import flow

from flows.compare import search_arm
from tasks.comparison.grid import Axis, plan_sweep
from tasks.comparison.runs import comparison_of, open_comparison, refuse_failures, run_searches
from tasks.comparison.sweep_report import report_sweep
from tasks.config.schema import SearchConfig
from tasks.contracts import SearchRef
from tasks.opening import mark_failed_on_error


@flow(name="msft-sweep", flow_run_name="sweep-{config.name}", persist_result=False)
def sweep_grid(
    config: SearchConfig,
    axes: tuple[Axis, ...],
    methods: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (),
    parallel: int | None = None,
) -> SearchRef:
    """Search at each point of a grid with each method and seed, and report peaks, their shifts, scores and costs.

    Run again, it takes searches that have ended as they are, and goes on with the others.
    """
    arms, control = plan_sweep(config, axes, methods, seeds)
    with mark_failed_on_error(comparison_of(config, arms, control, "sweep"), config.tracking.experiment):
        comparison = open_comparison(config, arms, control, "sweep")
        outcomes = run_searches(config, comparison, arms, lambda arm: search_arm(arm, comparison), parallel)
        report_sweep(comparison, axes, control, outcomes)
        refuse_failures(outcomes)
    return comparison
