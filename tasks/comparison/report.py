"""The report of a comparison or sweep: frames as CSV files, plots, and the same numbers in MLflow."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.comparison.bootstrap import Difference, paired_difference
from tasks.comparison.grid import Grid
from tasks.comparison.parallel import Outcome
from tasks.comparison.peak_shifts import peak_epochs, peak_shifts
from tasks.comparison.plots import plot_axis, plot_comparison, plot_peaks, plot_shifts, save_figure
from tasks.comparison.runs import Cost, Finding, find_all
from tasks.config.presets import PRESETS
from tasks.config.schema import SearchConfig
from tasks.contracts import SearchRef
from tasks.record.events import RoundDecided
from tasks.registry import runs as tracking
from tasks.report.messages import show_comparison
from tasks.runtime.files import publish_file

logger = logging.getLogger(__name__)

COSTS = tuple(Cost.model_fields)

Frames = dict[str, pd.DataFrame]
RowsOf = Callable[[Sequence[RoundDecided], int], list[dict[str, Any]]]


@task(name="report comparison", cache_policy=NO_CACHE)
def report_comparison(config: SearchConfig, comparison: SearchRef, grid: Grid, outcomes: Sequence[Outcome]) -> None:
    """Write the frames and plots, print the tables, log all of it, and close the comparison's MLflow run.

    Raises:
        DifferentDataError: searches of one seed in a comparison had different data.
    """
    findings = find_all(outcomes, same_data=not grid.axes)
    frames = build_frames(grid, outcomes, findings)
    directory = Path(comparison.directory)
    paths = write_frames(directory, frames) + _write_plots(directory, frames, grid)
    if findings:
        rows = {name: frame.astype(object).where(frame.notna(), None) for name, frame in frames.items()}
        records = {name: frame.to_dict("records") for name, frame in rows.items()}
        show_comparison(_heading(config, grid), records, grid.axes, PRESETS[grid.control].title)
    logger.info(f"files: {directory}")
    tracking.log_files(comparison, paths, grid.kind)
    metrics = _metrics(frames["summary"], grid.axes) if findings else {}
    tracking.log_summary(comparison, metrics, {"msft.control": grid.control}, _timestamp(findings))
    tracking.close_search_run(comparison, "FAILED" if any(o.error for o in outcomes) else "FINISHED")


def _heading(config: SearchConfig, grid: Grid) -> str:
    budget = "" if grid.axes else f": {config.search.max_epochs:g} full-mixture epochs each"
    is_paper = config.search.protocol == "paper"
    return f"{grid.kind} {config.name}{budget}" + (
        " (protocol: paper, selected on the test splits)" if is_paper else ""
    )


def read_report(directory: str) -> dict[str, Any]:
    """Return a report's CSV files as plain values: accuracies in [0, 1], null for missing numbers."""
    files = {name: Path(directory, f"{name}.csv") for name in ("summary", "sub_datasets", "runs")}
    frames = {
        name: json.loads(pd.read_csv(file).to_json(orient="records", double_precision=15))
        for name, file in files.items()
        if file.is_file()
    }
    return {"comparison": Path(directory).name, "directory": directory, **frames}


def build_frames(grid: Grid, outcomes: Sequence[Outcome], findings: Sequence[Finding]) -> Frames:
    """Return the frames by the names of their files: those of a comparison, or those of a sweep."""
    frames = {"runs": runs_frame(outcomes, findings), "scores": scores_frame(findings)}
    if findings:
        frames["summary"] = summary_frame(findings, grid.control)
    if not grid.axes:
        frames["sub_datasets"] = sub_datasets_frame(findings, grid.control)
    else:
        frames["peaks"] = _journal_frame(findings, peak_epochs)
        frames["shifts"] = _journal_frame(findings, peak_shifts)
    return {name: frame for name, frame in frames.items() if not frame.empty}


def write_frames(directory: Path, frames: Frames) -> list[Path]:
    """Write each frame as a CSV file, and return the files."""
    paths = {name: directory / f"{name}.csv" for name in frames}
    for name, path in paths.items():
        publish_file(path, partial(frames[name].to_csv, index=False))
    return list(paths.values())


def _write_plots(directory: Path, frames: Frames, grid: Grid) -> list[Path]:
    figures = {}
    if "summary" in frames and not grid.axes:
        figures["accuracy_against_flops"] = plot_comparison(frames["summary"], grid.control)
    if "summary" in frames:
        figures |= {f"against_{axis}": plot_axis(frames["summary"], axis, grid.axes) for axis in grid.axes}
    if "peaks" in frames:
        figures["peaks"] = plot_peaks(frames["peaks"])
    if "shifts" in frames:
        figures["shifts"] = plot_shifts(frames["shifts"])
    return [path for name, figure in figures.items() for path in save_figure(figure, directory / name)]


def _timestamp(findings: Iterable[Finding]) -> int:
    """Return the end of the last search as Unix time in ms; MLflow takes a point with the same timestamp once."""
    ends = [int(pd.Timestamp(finding.crowned_at).timestamp()) for finding in findings]
    return 1000 * max(ends, default=0)


def runs_frame(outcomes: Sequence[Outcome], findings: Sequence[Finding]) -> pd.DataFrame:
    """Return one row per search: its score and costs, or its error."""
    found = {finding.arm.label: finding for finding in findings}
    rows: list[dict[str, Any]] = []
    for outcome in outcomes:
        arm, finding = outcome.arm, found.get(outcome.arm.label)
        row: dict[str, Any] = {"method": arm.method, **arm.point, "seed": arm.seed, "error": outcome.error}
        if finding is not None:
            costs = {name: getattr(finding.cost, name) for name in COSTS}
            row |= {"test_accuracy": finding.accuracy, **costs, "directory": finding.directory}
        rows.append(row)
    return pd.DataFrame(rows)


def scores_frame(findings: Sequence[Finding]) -> pd.DataFrame:
    """Return one row per search and sub-dataset: the champion's test accuracy."""
    return pd.DataFrame(
        [
            _key(finding)
            | {"sub_dataset": score.sub_dataset, "accuracy": score.accuracy, "num_examples": score.num_examples}
            for finding in findings
            for score in finding.test
        ]
    )


def _key(finding: Finding) -> dict[str, Any]:
    return {"method": finding.arm.method, **finding.arm.point, "seed": finding.arm.seed}


def summary_frame(findings: Sequence[Finding], control: str) -> pd.DataFrame:
    """Return one row per point and method: test accuracy over seeds, difference to the control, mean costs of a search.

    Accuracies and differences lie in [0, 1]; the standard deviation is over seeds, and missing with one seed. The
    control of a row is that of its own point.
    """
    groups = _by_point_and_method(findings)
    rows = []
    for (point, method), own in groups.items():
        names = [score.sub_dataset for score in own[0].test]
        costs = pd.DataFrame([finding.cost.model_dump() for finding in own])
        rows.append(
            {
                **dict(point),
                "method": method,
                "title": PRESETS[method].title,
                **_spread([finding.accuracy for finding in own]),
                **_difference_columns(own, groups.get((point, control), []), names),
                **costs.mean(),
                "flops_std": costs["flops"].std(),
            }
        )
    return pd.DataFrame(rows)


def sub_datasets_frame(findings: Sequence[Finding], control: str) -> pd.DataFrame:
    """Return one row per method and sub-dataset, with the columns of `summary_frame` except costs."""
    groups = _by_point_and_method(findings)
    return pd.DataFrame(
        [
            {
                "method": method,
                "sub_dataset": name,
                **_spread([s.accuracy or 0.0 for f in own for s in f.test if s.sub_dataset == name]),
                **_difference_columns(own, groups.get((point, control), []), [name]),
            }
            for (point, method), own in groups.items()
            for name in dict.fromkeys(score.sub_dataset for finding in own for score in finding.test)
        ]
    )


def _by_point_and_method(findings: Sequence[Finding]) -> dict[tuple[tuple[tuple[str, str], ...], str], list[Finding]]:
    groups: dict[tuple[tuple[tuple[str, str], ...], str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((tuple(finding.arm.point.items()), finding.arm.method), []).append(finding)
    return groups


def _spread(accuracies: Sequence[float]) -> dict[str, float]:
    values = pd.Series(accuracies)
    return {"num_seeds": len(values), "mean": values.mean(), "std": values.std()}


def _difference_columns(
    own: Sequence[Finding], theirs: Sequence[Finding], names: Sequence[str]
) -> dict[str, float | None]:
    difference = _difference(own, theirs, names) if own is not theirs else None
    if difference is None:
        return {"difference": None, "low": None, "high": None}
    return {"difference": difference.mean, "low": difference.low, "high": difference.high}


def _difference(own: Sequence[Finding], theirs: Sequence[Finding], names: Sequence[str]) -> Difference | None:
    """Return the difference over the seeds of both on the named sub-datasets; None without a common seed."""
    by_seed = {finding.arm.seed: finding for finding in theirs}
    pairs = [(finding, by_seed[finding.arm.seed]) for finding in own if finding.arm.seed in by_seed]
    if not pairs:
        return None
    hashes = {name: {finding.test_hashes[name] for finding, _ in pairs} for name in names}
    return paired_difference(
        _correct([finding for finding, _ in pairs], names),
        _correct([finding for _, finding in pairs], names),
        {name for name in names if len(hashes[name]) == 1},
    )


def _correct(findings: Sequence[Finding], names: Sequence[str]) -> dict[str, list[str]]:
    """Return the correctness of each sub-dataset's test rows, one text per finding."""
    return {
        name: [score.correct for finding in findings for score in finding.test if score.sub_dataset == name]
        for name in names
    }


def _journal_frame(findings: Sequence[Finding], rows_of: RowsOf) -> pd.DataFrame:
    """Return the rows that `rows_of` derives from the rounds of each search, with the search's key."""
    rows = []
    for finding in findings:
        evals_per_epoch = finding.arm.config.search.evals_per_epoch
        rows += [_key(finding) | row for row in rows_of(finding.rounds, evals_per_epoch)]
    return pd.DataFrame(rows)


def _metrics(summary: pd.DataFrame, axes: Sequence[str]) -> dict[str, float]:
    """Return the summary as MLflow metrics `method/column`, with the point of a sweep after the method."""
    columns = ("mean", "std", "difference", "low", "high", *COSTS)
    return {
        f"{' '.join([row['method'], *(row[axis] for axis in axes)])}/{column}": float(row[column])
        for row in summary.to_dict("records")
        for column in columns
        if pd.notna(row[column])
    }
