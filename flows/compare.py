"""Several methods, seeds and settings on the machinery of the search, under one MLflow run."""

from __future__ import annotations

from prefect import flow
from prefect.runtime import flow_run

from flows.search import msft_search
from tasks.commands.deploy import emits_end_event, fill_in_run_number
from tasks.comparison.grid import Axis, Grid, plan_grid
from tasks.comparison.parallel import Part, Place, inside_flow_run, run_as_child
from tasks.comparison.report import report_comparison
from tasks.comparison.runs import comparison_of, open_comparison, refuse_failures, run_searches
from tasks.config.loading import load_shown_config
from tasks.config.schema import SearchConfig
from tasks.contracts import SearchRef
from tasks.opening import mark_failed_on_error
from tasks.record.ownership import HANDOVER_S
from tasks.runtime.pool import worker_pool

HERE = Place()


def _run_name() -> str:
    parameters = flow_run.parameters
    return f"{'sweep' if parameters['axes'] else 'compare'}-{parameters['config'].name}"


@flow(name="msft-compare", flow_run_name=_run_name, persist_result=False)
def compare_methods(
    config: SearchConfig,
    methods: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (),
    control: str = "",
    axes: tuple[Axis, ...] = (),
    place: Place = HERE,
) -> SearchRef:
    """Search with each method and seed, at each point of a sweep's axes, and report test scores and costs.

    Run again, it reuses searches that have ended and resumes the others.

    Args:
        config, methods, seeds, control: as in `compare_file`; each search spends its `search.max_epochs`.
        axes: the settings that a sweep varies; none: a comparison.
        place: where the searches run.
    """
    return _compare(config, plan_grid(config, methods, seeds, control, axes), place)


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

    Each search waits for one of a previous attempt that still saves, since Prefect may reschedule a run that early.

    Args:
        config: path of the YAML file, from the working directory of the run.
        methods: names of presets; none: SFT and mSFT.
        seeds: none: the file's.
        control: the method that the others are measured against; none: SFT if it is compared, otherwise the first.
        overrides: values of the form a.b=c that replace the file's; {run} in them is the number of the run.
    """
    loaded = load_shown_config(config, fill_in_run_number(overrides), is_shared=True)
    _compare(loaded, plan_grid(loaded, methods, seeds, control), wait_s=HANDOVER_S)


def _compare(config: SearchConfig, grid: Grid, place: Place = HERE, wait_s: float = 0.0) -> SearchRef:
    with mark_failed_on_error(comparison_of(config, grid), config.tracking.experiment):
        comparison = open_comparison(config, grid)
        with worker_pool(comparison.directory):  # for searches in this process
            outcomes = run_searches(comparison, grid, place, search_part, wait_s)
        report_comparison(config, comparison, grid, outcomes)
        refuse_failures(outcomes)
    return comparison


def search_part(part: Part) -> None:
    """Run one search of a comparison."""
    msft_search(part.arm.config, parent_run_id=part.parent_run_id, wait_s=part.wait_s, shares_gpus=part.shares_gpus)


def search_part_of_other_process(part: Part) -> None:
    """Run one search of a comparison whose flow runs in another process."""
    with inside_flow_run(compare_methods, part.flow_run_id):
        search_part(part)


if __name__ == "__main__":  # as run_in_parallel starts it
    run_as_child(search_part_of_other_process)
