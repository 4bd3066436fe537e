"""The tables that a comparison or sweep prints at its end."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from tasks.report.messages import tell_heading, tell_table
from tasks.report.table import Table, names, numbers, styled

logger = logging.getLogger(__name__)


def show_comparison(heading: str, frames: Mapping[str, pd.DataFrame], axes: Sequence[str], control: str) -> None:
    """Tell scores, costs and, where the frames have them, sub-datasets; differences clear of zero are bold.

    Args:
        heading: printed above the tables.
        frames: `summary`, and perhaps `sub_datasets`; accuracies in [0, 1] are printed in points.
        axes: the columns of `summary` that a sweep varies.
        control: title of the method that the others are measured against.
    """
    tell_heading(heading)
    summary = frames["summary"]
    tell_table(_scores_table(summary, axes, control))
    over = (
        "test rows alone, as seeds cannot be resampled with one"
        if summary["num_seeds"].min() == 1
        else "seeds and test rows"
    )
    logger.info(
        "test accuracy: mean over sub-datasets ± standard deviation over seeds; "
        f"intervals: paired bootstrap over {over}"
    )
    tell_table(_costs_table(summary, axes))
    logger.info("tokens, FLOPs and seconds of one search, mean over seeds; training, discarded work and evaluation")
    if "sub_datasets" in frames:
        titles = dict(zip(summary["method"], summary["title"], strict=True))
        tell_table(_sub_datasets_table(frames["sub_datasets"], titles))


def _scores_table(summary: pd.DataFrame, axes: Sequence[str], control: str) -> Table:
    rows = []
    for row in summary.to_dict("records"):
        is_clear = pd.notna(row["low"]) and (row["low"] > 0 or row["high"] < 0)
        cells = (*_point(row, axes), row["title"], str(row["num_seeds"]), _accuracy(row), _interval(row))
        rows.append(styled(cells, "clear" if is_clear else ""))
    headings = numbers("seeds", "test accuracy", f"difference to {control} [95 %]")
    return Table((*names(*axes, "method"), *headings), rows)


def _costs_table(summary: pd.DataFrame, axes: Sequence[str]) -> Table:
    rows = []
    for row in summary.to_dict("records"):
        tokens = (f"{row[name]:,.0f}" for name in ("train_tokens", "discarded_tokens", "evaluation_tokens"))
        costs = (*tokens, f"{row['flops']:.3g}", f"{row['seconds']:,.0f}")
        rows.append((*_point(row, axes), row["title"], *costs))
    headings = numbers("train tokens", "discarded", "evaluation", "FLOPs", "seconds")
    return Table((*names(*axes, "method"), *headings), rows)


def _sub_datasets_table(frame: pd.DataFrame, titles: Mapping[str, str]) -> Table:
    rows = []
    for name, scored in frame.groupby("sub_dataset", sort=False):
        cells = {row["method"]: _accuracy(row) for row in scored.to_dict("records")}
        rows.append((str(name), *(cells.get(method, "none") for method in titles)))
    return Table((*names("sub-dataset"), *numbers(*titles.values())), rows)


def _point(row: Mapping[Any, Any], axes: Sequence[str]) -> list[str]:
    return [str(row[axis]) for axis in axes]


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
