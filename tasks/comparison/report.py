"""The report of a comparison or sweep: frames as CSV files, plots, terminal and page, and MLflow metrics."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.comparison.frames import Frames, build_frames, metrics_of
from tasks.comparison.grid import Grid
from tasks.comparison.parallel import Outcome
from tasks.comparison.runs import find_all
from tasks.config.presets import PRESETS
from tasks.config.schema import SearchConfig
from tasks.contracts import SearchRef
from tasks.registry import runs as tracking
from tasks.report.comparison_page import page_of
from tasks.report.messages import show_comparison
from tasks.report.prefect_artifacts import show_page
from tasks.runtime.files import publish_file, write_file

logger = logging.getLogger(__name__)
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it announces that it builds its cache

# Okabe and Ito's palette, safe for colour-blind readers.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
_MARKERS = "osD^vPX*"
PAGE = "report.md"
_FLOPS = "total FLOPs of a search"


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
        budget = "" if grid.axes else f": {config.search.max_epochs:g} full-mixture epochs each"
        protocol = " (protocol: paper, selected on the test splits)" if config.search.protocol == "paper" else ""
        heading = f"{grid.kind} {config.name}{budget}{protocol}"
        rows = {name: frame.astype(object).where(frame.notna(), None) for name, frame in frames.items()}
        records = {name: frame.to_dict("records") for name, frame in rows.items()}
        told = (heading, records, grid.axes, PRESETS[grid.control].title)
        show_comparison(*told)
        page = page_of(*told)
        paths.append(directory / PAGE)
        write_file(paths[-1], page)
        tracking.describe_run(comparison, comparison.run_id, page)
        show_page(comparison, page)
    logger.info(f"files: {directory}")
    tracking.log_files(comparison, paths, grid.kind)
    metrics = metrics_of(frames["summary"], grid.axes) if findings else {}
    # The end of the last search, as MLflow takes a point with the same timestamp once.
    ends = [int(pd.Timestamp(finding.crowned_at).timestamp()) for finding in findings]
    tracking.log_points(comparison, comparison.run_id, metrics, 1000 * max(ends, default=0))
    tracking.tag_run(comparison, comparison.run_id, {"msft.control": grid.control})
    tracking.close_search_run(comparison, "FAILED" if any(o.error for o in outcomes) else "FINISHED")


def read_report(directory: str) -> dict[str, Any]:
    """Return a report's CSV files as plain values: accuracies in [0, 1], null for missing numbers."""
    files = {name: Path(directory, f"{name}.csv") for name in ("summary", "differences", "sub_datasets", "runs")}
    frames = {
        name: json.loads(pd.read_csv(file).to_json(orient="records", double_precision=15))
        for name, file in files.items()
        if file.is_file()
    }
    return {"comparison": Path(directory).name, "directory": directory, **frames}


def write_frames(directory: Path, frames: Frames) -> list[Path]:
    """Write each frame as a CSV file, and return the files."""
    paths = {name: directory / f"{name}.csv" for name in frames}
    for name, path in paths.items():
        publish_file(path, partial(frames[name].to_csv, index=False))
    return list(paths.values())


def _write_plots(directory: Path, frames: Frames, grid: Grid) -> list[Path]:
    plots = (("peaks", plot_peaks), ("shifts", plot_shifts))
    figures = {name: plot(frames[name]) for name, plot in plots if name in frames}
    if "summary" in frames and not grid.axes:
        figures["accuracy_against_flops"] = plot_comparison(frames["summary"], grid.control)
    if "summary" in frames:
        figures |= {f"against_{axis}": plot_axis(frames["summary"], axis, grid.axes) for axis in grid.axes}
    return [path for name, figure in figures.items() for path in save_figure(figure, directory / name)]


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as PNG and SVG, and return both paths."""
    paths = [stem.with_suffix(".png"), stem.with_suffix(".svg")]
    with rc_context({"svg.hashsalt": "msft", "svg.fonttype": "none"}):
        publish_file(paths[0], partial(figure.savefig, dpi=150))
        publish_file(paths[1], partial(figure.savefig, metadata={"Date": None}))
    return paths


def plot_comparison(summary: pd.DataFrame, control: str) -> Figure:
    """Plot test accuracy in points against the mean FLOPs of a search; bars are standard deviations over seeds."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    _set_labels(axes, f"{_FLOPS} (training, discarded work and evaluation)", "test accuracy, points")
    for index, row in enumerate(summary.to_dict("records")):
        axes.errorbar(
            row["flops"],
            100 * row["mean"],
            xerr=row["flops_std"] if pd.notna(row["flops_std"]) else None,
            yerr=100 * row["std"] if pd.notna(row["std"]) else None,
            fmt=_MARKERS[index % len(_MARKERS)],
            color=_COLOURS[index % len(_COLOURS)],
            # Of methods that coincide, the later is smaller, and all are rings: each stays in sight.
            markersize=18 - 11 * index / max(len(summary) - 1, 1),
            markerfacecolor="none",
            markeredgewidth=1.5,
            capsize=3,
            label=f"{row['title']}{' (control)' if row['method'] == control else ''}",
        )
        if row["method"] == control:
            axes.axhline(100 * row["mean"], color="0.7", linewidth=1, linestyle="--", zorder=0)
    axes.margins(0.15)
    seeds = "–".join(map(str, sorted({summary["num_seeds"].min(), summary["num_seeds"].max()})))
    axes.set_title(f"mean over sub-datasets, ± standard deviation over {seeds} seed(s)", fontsize=10)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def plot_axis(summary: pd.DataFrame, axis: str, names: Sequence[str]) -> Figure:
    """Plot test accuracy and FLOPs against one axis of a sweep; a line for each method and point of the other axes."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = figure.subplots(1, 2)
    others = [name for name in names if name != axis]
    values = pd.Series(summary[axis].unique())
    numbers = pd.to_numeric(values, errors="coerce").fillna(values.index.to_series())  # words are spaced evenly
    positions = dict(zip(values, numbers, strict=True))
    for index, (key, group) in enumerate(summary.groupby(["title", *others], sort=False)):
        label = ", ".join([str(key[0]), *(f"{n} {v}" for n, v in zip(others, key[1:], strict=True))])
        style: dict[str, Any] = {"color": _COLOURS[index % len(_COLOURS)], "marker": "o", "capsize": 3, "label": label}
        at = [positions[value] for value in group[axis]]
        panels[0].errorbar(at, 100 * group["mean"], yerr=100 * group["std"].fillna(0), **style)
        panels[1].errorbar(at, group["flops"], yerr=group["flops_std"].fillna(0), **style)
    for panel, y_label in zip(panels, ("test accuracy, points", _FLOPS), strict=True):
        _set_labels(panel, axis.replace("_", " "), y_label)
        panel.set_xticks(list(positions.values()), list(positions))
    panels[1].set_ylim(bottom=0)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def plot_peaks(peaks: pd.DataFrame) -> Figure:
    """Plot each sub-dataset's peak epoch and the mixture's; a dot for each search, a bar for their mean."""
    distance = (peaks["peak_epoch"] - peaks["mixture_peak_epoch"]).abs().mean()
    figure, axes = _dots(peaks, "peak_epoch", "epoch of the peak on validation")
    mixture = peaks["mixture_peak_epoch"].mean()
    axes.axvline(mixture, color=_COLOURS[1], linestyle="--", label=f"peak of the mixture, mean {mixture:.2f}")
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    figure.suptitle(f"mean distance from the mixture's peak: {distance:.2f} epochs", fontsize=10)
    return figure


def plot_shifts(shifts: pd.DataFrame) -> Figure:
    """Plot how far each exclusion moves the remaining peaks; a dot for each exclusion, a bar for their mean."""
    figure, axes = _dots(shifts, "shift", "shift of the peak after one exclusion, epochs")
    axes.axvline(0, color="0.4", linewidth=1)
    figure.suptitle(f"mean absolute shift: {shifts['shift'].abs().mean():.2f} epochs", fontsize=10)
    return figure


def _dots(frame: pd.DataFrame, column: str, x_label: str) -> tuple[Figure, Axes]:
    """Return a figure with one row of dots for each sub-dataset."""
    names = list(dict.fromkeys(frame["sub_dataset"]))
    figure = Figure(figsize=(8, 1.6 + 0.35 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    _set_labels(axes, x_label, "")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    for row, name in enumerate(names):
        values = frame.loc[frame["sub_dataset"] == name, column]
        axes.plot(values, [row] * len(values), "o", color=_COLOURS[0], alpha=0.4, markersize=6)
        axes.plot([values.mean()], [row], "|", color=_COLOURS[0], markersize=16, markeredgewidth=2.5)
    return figure, axes


def _set_labels(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
