"""The plots of a sweep: sub-datasets' peaks, their shifts, and accuracy and FLOPs along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tasks.comparison.plots import COLOURS, bare_axes


def plot_peaks(peaks: pd.DataFrame) -> Figure:
    """Return each sub-dataset's peak epoch against the mixture's; a dot a search, a bar their mean."""
    names = list(dict.fromkeys(peaks["sub_dataset"]))
    distance = (peaks["peak_epoch"] - peaks["mixture_peak_epoch"]).abs().mean()
    figure, axes = _rows_of(names, "epoch of the peak on validation")
    _dots(axes, peaks, "peak_epoch", names)
    mixture = peaks["mixture_peak_epoch"].mean()
    axes.axvline(mixture, color=COLOURS[1], linestyle="--", label=f"peak of the mixture, mean {mixture:.2f}")
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    figure.suptitle(f"mean distance from the mixture's peak: {distance:.2f} epochs", fontsize=10)
    return figure


def plot_shifts(shifts: pd.DataFrame) -> Figure:
    """Return how far each exclusion moved the peaks of those that stayed; a dot an exclusion, a bar their mean."""
    names = list(dict.fromkeys(shifts["sub_dataset"]))
    figure, axes = _rows_of(names, "shift of the peak after one exclusion, epochs")
    _dots(axes, shifts, "shift", names)
    axes.axvline(0, color="0.4", linewidth=1)
    figure.suptitle(f"mean absolute shift: {shifts['shift'].abs().mean():.2f} epochs", fontsize=10)
    return figure


def plot_axis(summary: pd.DataFrame, axis: str, names: Sequence[str]) -> Figure:
    """Return test accuracy and FLOPs against one axis; a line a method and point of the other axes."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = figure.subplots(1, 2)
    others = [name for name in names if name != axis]
    positions = {value: _number(value, index) for index, value in enumerate(dict.fromkeys(summary[axis]))}
    for index, (key, group) in enumerate(summary.groupby(["title", *others], sort=False)):
        label = ", ".join([str(key[0]), *(f"{n} {v}" for n, v in zip(others, key[1:], strict=True))])
        style: dict[str, Any] = {
            "color": COLOURS[index % len(COLOURS)],
            "marker": "o",
            "capsize": 3,
            "label": label,
        }
        at = [positions[value] for value in group[axis]]
        panels[0].errorbar(at, 100 * group["mean"], yerr=100 * group["std"].fillna(0), **style)
        panels[1].errorbar(at, group["flops"], yerr=group["flops_std"].fillna(0), **style)
    for panel, y_label in zip(panels, ("test accuracy, points", "total FLOPs of a search"), strict=True):
        bare_axes(panel, axis.replace("_", " "), y_label)
        panel.set_xticks(list(positions.values()), list(positions))
    panels[1].set_ylim(bottom=0)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _number(value: str, index: int) -> float:
    try:
        return float(value)
    except ValueError:
        return float(index)  # words stand side by side


def _rows_of(names: Sequence[str], x_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 1.6 + 0.35 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    bare_axes(axes, x_label, "")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    return figure, axes


def _dots(axes: Axes, frame: pd.DataFrame, column: str, names: Sequence[str]) -> None:
    for row, name in enumerate(names):
        values = frame.loc[frame["sub_dataset"] == name, column]
        axes.plot(values, [row] * len(values), "o", color=COLOURS[0], alpha=0.4, markersize=6)
        axes.plot([values.mean()], [row], "|", color=COLOURS[0], markersize=16, markeredgewidth=2.5)
