"""What a comparison found: tables, CSV files, a plot, and the same in MLflow."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import task
from prefect.cache_policies import NO_CACHE
from rich.markup import escape
from rich.table import Table

from tasks.comparison.bootstrap import Difference, paired_difference
from tasks.comparison.parallel import Outcome
from tasks.comparison.plots import plot_comparison, save_figure
from tasks.comparison.runs import Finding, find_all, title_of
from tasks.config.schema import SearchConfig
from tasks.contracts import SearchRef
from tasks.registry import points as run_log
from tasks.registry import runs as tracking
from tasks.report.console import console, print_table
from tasks.runtime.files import publish_file

logger = logging.getLogger(__name__)

COSTS = ("train_tokens", "discarded_tokens", "evaluation_tokens", "flops", "seconds")


@task(name="report comparison", cache_policy=NO_CACHE)
def report_comparison(
    config: SearchConfig, comparison: SearchRef, control: str, outcomes: Sequence[Outcome]
) -> None:
    """Write the frames and the plot, print the tables, log all of it, and close the comparison's MLflow run.

    Raises:
        DifferentDataError: searches of one seed were not made on the same data.
    """
    findings = find_all(outcomes, same_data=True)
    frames = {"runs": runs_frame(outcomes, findings), "scores": scores_frame(findings)}
    if findings:
        frames["summary"] = summary_frame(findings, control)
        frames["sub_datasets"] = sub_datasets_frame(findings, control)
    directory = Path(comparison.directory)
    paths = write_frames(directory, frames)
    if findings:
        paths += save_figure(
            plot_comparison(frames["summary"], control), directory / "accuracy_against_flops"
        )
        show_comparison(config, frames, control)
    logger.info(f"files: {directory}")
    run_log.log_files(comparison, paths, "comparison")
    metrics = comparison_metrics(frames["summary"]) if findings else {}
    run_log.log_summary(comparison, metrics, {"msft.control": control}, stamp_of(findings))
    tracking.close_search_run(comparison, "FAILED" if any(o.error for o in outcomes) else "FINISHED")


def write_frames(directory: Path, frames: Mapping[str, pd.DataFrame]) -> list[Path]:
    """Write each frame as a CSV file, and return the files."""
    paths = []
    for name, frame in frames.items():
        paths.append(directory / f"{name}.csv")
        publish_file(paths[-1], partial(frame.to_csv, index=False))
    return paths


def stamp_of(findings: Iterable[Finding]) -> int:
    """Return the Unix time in ms at which the last search ended: logged with it, again changes nothing."""
    ends = [int(pd.Timestamp(finding.crowned_at).timestamp()) for finding in findings]
    return 1000 * max(ends, default=0)


def runs_frame(outcomes: Sequence[Outcome], findings: Sequence[Finding]) -> pd.DataFrame:
    """Return one row a search: what it scored and cost, or why it failed."""
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
    """Return one row a search and sub-dataset: the champion's test accuracy."""
    return pd.DataFrame(
        [
            {
                "method": finding.arm.method,
                **finding.arm.point,
                "seed": finding.arm.seed,
                "sub_dataset": score.sub_dataset,
                "accuracy": score.accuracy,
                "num_examples": score.num_examples,
            }
            for finding in findings
            for score in finding.test
        ]
    )


def summary_frame(findings: Sequence[Finding], control: str) -> pd.DataFrame:
    """Return one row a method: test accuracy over seeds, difference to the control, and mean costs of a search.

    Accuracies and differences lie in [0, 1]; the standard deviation is that over seeds, absent with one seed.
    """
    rows = []
    for method, own in _by_method(findings).items():
        accuracies = pd.Series([finding.accuracy for finding in own])
        costs = pd.DataFrame([finding.cost.model_dump() for finding in own])
        rows.append(
            {
                "method": method,
                "title": title_of(method),
                "num_seeds": len(own),
                "mean": accuracies.mean(),
                "std": accuracies.std(),
                **_difference_columns(_difference(findings, method, control, None)),
                **costs.mean(),
                "flops_std": costs["flops"].std(),
            }
        )
    return pd.DataFrame(rows)


def sub_datasets_frame(findings: Sequence[Finding], control: str) -> pd.DataFrame:
    """Return one row a method and sub-dataset, as `summary_frame` has them."""
    scores = scores_frame(findings)
    groups = scores.groupby(["method", "sub_dataset"], sort=False)["accuracy"]
    return pd.DataFrame(
        [
            {
                "method": method,
                "sub_dataset": name,
                "num_seeds": len(accuracies),
                "mean": accuracies.mean(),
                "std": accuracies.std(),
                **_difference_columns(_difference(findings, str(method), control, str(name))),
            }
            for (method, name), accuracies in groups
        ]
    )


def _by_method(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    methods = dict.fromkeys(finding.arm.method for finding in findings)
    return {method: [f for f in findings if f.arm.method == method] for method in methods}


def _difference(
    findings: Sequence[Finding], method: str, control: str, sub_dataset: str | None
) -> Difference | None:
    """Return the difference over the seeds that both have, of one sub-dataset or of all; None where there is none."""
    own = {finding.arm.seed: finding for finding in findings if finding.arm.method == method}
    theirs = {finding.arm.seed: finding for finding in findings if finding.arm.method == control}
    seeds = [seed for seed in own if seed in theirs]
    if method == control or not seeds:
        return None
    names = [s.sub_dataset for s in own[seeds[0]].test if sub_dataset in (None, s.sub_dataset)]
    hashes = {name: {own[seed].test_hashes[name] for seed in seeds} for name in names}
    return paired_difference(
        _correct([own[seed] for seed in seeds], names),
        _correct([theirs[seed] for seed in seeds], names),
        {name for name in names if len(hashes[name]) == 1},
    )


def _correct(findings: Sequence[Finding], names: Sequence[str]) -> dict[str, list[str]]:
    """Return for each sub-dataset which test rows were right, one text a finding."""
    return {
        name: [score.correct for finding in findings for score in finding.test if score.sub_dataset == name]
        for name in names
    }


def _difference_columns(difference: Difference | None) -> dict[str, float | None]:
    if difference is None:
        return {"difference": None, "low": None, "high": None}
    return {"difference": difference.mean, "low": difference.low, "high": difference.high}


def comparison_metrics(summary: pd.DataFrame) -> dict[str, float]:
    """Return the summary's numbers as MLflow metrics, `method/column`."""
    columns = ("mean", "std", "difference", "low", "high", *COSTS)
    return {
        f"{row['method']}/{column}": float(row[column])
        for row in summary.to_dict("records")
        for column in columns
        if pd.notna(row[column])
    }


def show_comparison(config: SearchConfig, frames: Mapping[str, pd.DataFrame], control: str) -> None:
    """Print the methods, their costs, then the sub-datasets; accuracies in points, bold where clear of zero."""
    budget, protocol = config.search.max_epochs, config.search.protocol
    selected = " (protocol: paper, selected on the test splits)" if protocol == "paper" else ""
    console.rule(f"comparison {config.name}: {budget:g} full-mixture epochs each{selected}", align="left")
    summary = frames["summary"]
    table = new_table(["method", "seeds", "test accuracy", f"difference to {title_of(control)} [95 %]"])
    costs = new_table(["method", "train tokens", "discarded", "evaluation", "FLOPs", "seconds"])
    for row in summary.to_dict("records"):
        is_clear = pd.notna(row["low"]) and (row["low"] > 0 or row["high"] < 0)
        cells = (str(row["num_seeds"]), shown_spread(row), shown_interval(row))
        table.add_row(row["title"], *cells, style="bold" if is_clear else "")
        tokens = (f"{row[name]:,.0f}" for name in COSTS[:3])
        costs.add_row(row["title"], *tokens, f"{row['flops']:.3g}", f"{row['seconds']:,.0f}")
    print_table(table)
    num_seeds = int(summary["num_seeds"].min())
    over = (
        "test rows alone, as seeds cannot be resampled with one" if num_seeds == 1 else "seeds and test rows"
    )
    logger.info(
        "test accuracy: mean over sub-datasets ± standard deviation over seeds; "
        f"intervals: paired bootstrap over {over}"
    )
    print_table(costs)
    logger.info(
        "tokens, FLOPs and seconds of one search, mean over seeds; training, discarded work and evaluation"
    )
    _show_sub_datasets(summary, frames["sub_datasets"])


def _show_sub_datasets(summary: pd.DataFrame, by_sub_dataset: pd.DataFrame) -> None:
    titles = dict(zip(summary["method"], summary["title"], strict=True))
    table = new_table(["sub-dataset", *titles.values()])
    for name, rows in by_sub_dataset.groupby("sub_dataset", sort=False):
        cells_of = {row["method"]: shown_spread(row) for row in rows.to_dict("records")}
        table.add_row(escape(str(name)), *(cells_of.get(method, "none") for method in titles))
    print_table(table)


def new_table(headings: Sequence[str]) -> Table:
    """Return an empty table: the first column is text, the others are numbers."""
    table = Table(box=None, pad_edge=False)
    table.add_column(headings[0])
    for heading in headings[1:]:
        table.add_column(heading, justify="right")
    return table


def shown_spread(row: Mapping[Any, Any]) -> str:
    """Return a summary row's accuracy in points, ± its standard deviation where there is one."""
    spread = f" ± {100 * row['std']:.1f}" if pd.notna(row["std"]) else ""
    return f"{100 * row['mean']:.1f}{spread}"


def shown_interval(row: Mapping[Any, Any]) -> str:
    """Return a summary row's difference to the control in points, with its interval."""
    if pd.isna(row["difference"]):
        return "–"
    low, high = 100 * row["low"], 100 * row["high"]
    return f"{100 * row['difference']:+.1f} [{low:+.1f}, {high:+.1f}]"
