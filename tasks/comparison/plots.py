"""The plots of comparisons and sweeps."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tasks.runtime.files import publish_file

logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it tells when it builds its cache

# Okabe & Ito's colours, which colour-blind readers tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
_MARKERS = "osD^vPX*"


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as PNG and SVG, and return both files."""
    paths = [stem.with_suffix(".png"), stem.with_suffix(".svg")]
    with rc_context({"svg.hashsalt": "msft", "svg.fonttype": "none"}):
        publish_file(paths[0], partial(figure.savefig, dpi=150))
        publish_file(paths[1], partial(figure.savefig, metadata={"Date": None}))
    return paths


def plot_comparison(summary: pd.DataFrame, control: str) -> Figure:
    """Return test accuracy in points against the mean FLOPs of a search; bars are standard deviations over seeds."""
    figure, axes = _axes(
        "total FLOPs of a search (training, discarded work and evaluation)", "test accuracy, points"
    )
    for index, row in enumerate(summary.to_dict("records")):
        axes.errorbar(
            row["flops"],
            100 * row["mean"],
            xerr=row["flops_std"] if pd.notna(row["flops_std"]) else None,
            yerr=100 * row["std"] if pd.notna(row["std"]) else None,
            fmt=_MARKERS[index % len(_MARKERS)],
            color=COLOURS[index % len(COLOURS)],
            markersize=8,
            capsize=3,
            label=f"{row['title']}{' (control)' if row['method'] == control else ''}",
        )
        if row["method"] == control:
            axes.axhline(100 * row["mean"], color="0.7", linewidth=1, linestyle="--", zorder=0)
    axes.margins(0.15)
    num_seeds = sorted(set(summary["num_seeds"]))
    seeds = "–".join(str(count) for count in (num_seeds[0], *num_seeds[-1:][: len(num_seeds) - 1]))
    axes.set_title(f"mean over sub-datasets, ± standard deviation over {seeds} seed(s)", fontsize=10)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _axes(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    bare_axes(axes, x_label, y_label)
    return figure, axes


def bare_axes(axes: Axes, x_label: str, y_label: str) -> None:
    """Give axes their labels and no more ink than a reader needs."""
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
