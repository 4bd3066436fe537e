"""The tables that a comparison or sweep prints at its end."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.markup import escape
from rich.table import Table

from tasks.report.console import console, print_table

logger = logging.getLogger(__name__)


def show_comparison(
    heading: str, frames: Mapping[str, pd.DataFrame], axes: Sequence[str], control: str
) -> None:
    """Print scores, costs and, where the frames have them, sub-datasets; differences clear of zero are bold.

    Args:
        heading: printed above the tables.
        frames: `summary`, and perhaps `sub_datasets`; accuracies in [0, 1] are printed in points.
        axes: the columns of `summary` that a sweep varies.
        control: title of the method that the others are measured against.
    """
    console.rule(heading, align="left")
    summary = frames["summary"]
    print_table(_scores_table(summary, axes, control))
    over = (
        "test rows alone, as seeds cannot be resampled with one"
        if summary["num_seeds"].min() == 1
        else "seeds and test rows"
    )
    logger.info(
        "test accuracy: mean over sub-datasets ± standard deviation over seeds; "
        f"intervals: paired bootstrap over {over}"
    )
    print_table(_costs_table(summary, axes))
    logger.info(
        "tokens, FLOPs and seconds of one search, mean over seeds; training, discarded work and evaluation"
    )
    if "sub_datasets" in frames:
        titles = dict(zip(summary["method"], summary["title"], strict=True))
        print_table(_sub_datasets_table(frames["sub_datasets"], titles))


def _scores_table(summary: pd.DataFrame, axes: Sequence[str], control: str) -> Table:
    table = _new_table([*axes, "method"], ["seeds", "test accuracy", f"difference to {control} [95 %]"])
    for row in summary.to_dict("records"):
        is_clear = pd.notna(row["low"]) and (row["low"] > 0 or row["high"] < 0)
        cells = (str(row["num_seeds"]), _accuracy(row), _interval(row))
        table.add_row(*_point(row, axes), row["title"], *cells, style="bold" if is_clear else "")
    return table


def _costs_table(summary: pd.DataFrame, axes: Sequence[str]) -> Table:
    table = _new_table([*axes, "method"], ["train tokens", "discarded", "evaluation", "FLOPs", "seconds"])
    for row in summary.to_dict("records"):
        tokens = (f"{row[name]:,.0f}" for name in ("train_tokens", "discarded_tokens", "evaluation_tokens"))
        costs = (*tokens, f"{row['flops']:.3g}", f"{row['seconds']:,.0f}")
        table.add_row(*_point(row, axes), row["title"], *costs)
    return table


def _sub_datasets_table(frame: pd.DataFrame, titles: Mapping[str, str]) -> Table:
    table = _new_table(["sub-dataset"], list(titles.values()))
    for name, rows in frame.groupby("sub_dataset", sort=False):
        cells = {row["method"]: _accuracy(row) for row in rows.to_dict("records")}
        table.add_row(escape(str(name)), *(cells.get(method, "none") for method in titles))
    return table


def _new_table(words: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in words:
        table.add_column(heading)
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table


def _point(row: Mapping[Any, Any], axes: Sequence[str]) -> list[str]:
    return [escape(str(row[axis])) for axis in axes]


def _accuracy(row: Mapping[Any, Any]) -> str:
    """Return the accuracy in points, ± its standard deviation if there is one."""
    spread = f" ± {100 * row['std']:.1f}" if pd.notna(row["std"]) else ""
    return f"{100 * row['mean']:.1f}{spread}"


def _interval(row: Mapping[Any, Any]) -> str:
    """Return the difference to the control in points, with its interval."""
    if pd.isna(row["difference"]):
        return "–"
    low, high = 100 * row["low"], 100 * row["high"]
    return f"{100 * row['difference']:+.1f} [{low:+.1f}, {high:+.1f}]"
