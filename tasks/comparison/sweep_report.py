"""What a sweep found: tables, CSV files and the paper's plots, and the same in MLflow."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.comparison.grid import Axis
from tasks.comparison.parallel import Outcome
from tasks.comparison.peak_shifts import peak_epochs, peak_shifts
from tasks.comparison.plots import save_figure
from tasks.comparison.report import (
    comparison_metrics,
    new_table,
    runs_frame,
    scores_frame,
    shown_interval,
    shown_spread,
    stamp_of,
    summary_frame,
    write_frames,
)
from tasks.comparison.runs import Finding, find_all
from tasks.comparison.sweep_plots import plot_axis, plot_peaks, plot_shifts
from tasks.contracts import SearchRef
from tasks.record.journal import read_events
from tasks.registry import points as run_log
from tasks.registry import runs as tracking
from tasks.report.console import print_table

logger = logging.getLogger(__name__)

Rows = Callable[[Sequence[dict[str, Any]], int], list[dict[str, Any]]]


@task(name="report sweep", cache_policy=NO_CACHE)
def report_sweep(
    comparison: SearchRef, axes: Sequence[Axis], control: str, outcomes: Sequence[Outcome]
) -> None:
    """Write the frames and plots, print the table, log all of it, and close the sweep's MLflow run."""
    findings = find_all(outcomes, same_data=False)
    names = [axis.name for axis in axes]
    frames = {"runs": runs_frame(outcomes, findings), "scores": scores_frame(findings)}
    if findings:
        frames["summary"] = points_frame(findings, control)
    frames["peaks"] = _journal_frame(findings, peak_epochs)
    frames["shifts"] = _journal_frame(findings, peak_shifts)
    directory = Path(comparison.directory)
    paths = write_frames(directory, {name: frame for name, frame in frames.items() if not frame.empty})
    if findings:
        _show(frames["summary"], names)
        paths += save_figure(plot_peaks(frames["peaks"]), directory / "peaks")
        for name in names:
            paths += save_figure(plot_axis(frames["summary"], name, names), directory / f"against_{name}")
    if not frames["shifts"].empty:
        paths += save_figure(plot_shifts(frames["shifts"]), directory / "shifts")
    logger.info(f"files: {directory}")
    run_log.log_files(comparison, paths, "sweep")
    metrics = comparison_metrics(_named(frames["summary"], names)) if findings else {}
    run_log.log_summary(comparison, metrics, {"msft.control": control}, stamp_of(findings))
    tracking.close_search_run(comparison, "FAILED" if any(o.error for o in outcomes) else "FINISHED")


def points_frame(findings: Sequence[Finding], control: str) -> pd.DataFrame:
    """Return one row a point of the grid and method, as a comparison's summary has them."""
    points = list(dict.fromkeys(tuple(finding.arm.point.items()) for finding in findings))
    frames = []
    for point in points:
        frame = summary_frame([f for f in findings if tuple(f.arm.point.items()) == point], control)
        for index, (axis, value) in enumerate(point):
            frame.insert(index, axis, value)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _journal_frame(findings: Sequence[Finding], rows_of: Rows) -> pd.DataFrame:
    """Return what `rows_of` reads from each search's rounds, with the search's method, point and seed."""
    rows = []
    for finding in findings:
        arm = finding.arm
        rounds = [event for event in read_events(finding.directory) if event["event"] == "round_decided"]
        key = {"method": arm.method, **arm.point, "seed": arm.seed}
        rows += [key | row for row in rows_of(rounds, arm.config.search.evals_per_epoch)]
    return pd.DataFrame(rows)


def _named(summary: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the summary with a method's point in its name, as a metric's key needs it."""
    point = summary[list(names)].agg(" ".join, axis=1)
    return summary.assign(method=summary["method"] + " " + point)


def _show(summary: pd.DataFrame, names: Sequence[str]) -> None:
    table = new_table([*names, "method", "seeds", "test accuracy", "difference [95 %]", "FLOPs"])
    for row in summary.to_dict("records"):
        cells = [*(str(row[name]) for name in names), row["title"], str(row["num_seeds"])]
        table.add_row(*cells, shown_spread(row), shown_interval(row), f"{row['flops']:.3g}")
    print_table(table)
