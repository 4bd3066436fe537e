"""The frames of a comparison or sweep: its searches, their scores, costs, differences to the control, and peaks.

Accuracies and differences lie in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pandas as pd

from tasks.algorithm.curves import Curve
from tasks.comparison.grid import Grid
from tasks.comparison.intervals import holm, paired_difference
from tasks.comparison.parallel import Outcome
from tasks.comparison.runs import Cost, Finding
from tasks.config.presets import PRESETS
from tasks.contracts import SubDatasetScore
from tasks.record.events import RoundDecided

COSTS = tuple(Cost.model_fields)

Frames = dict[str, pd.DataFrame]
Row = dict[str, Any]
Group = tuple[tuple[tuple[str, str], ...], str]  # a point of the sweep's axes, and a method


def build_frames(grid: Grid, outcomes: Sequence[Outcome], findings: Sequence[Finding]) -> Frames:
    """Return the frames by the names of their files: those of a comparison, or those of a sweep."""
    frames = {"runs": runs_frame(outcomes, findings), "scores": scores_frame(findings)}
    if findings:
        frames["summary"] = summary_frame(findings, grid.control)
        frames["differences"] = differences_frame(findings, grid.control)
    if not grid.axes:
        frames["sub_datasets"] = sub_datasets_frame(findings, grid.control)
    else:
        for name, rows_of in (("peaks", peak_epochs), ("shifts", peak_shifts)):
            rows = ((f, row) for f in findings for row in rows_of(f.rounds, f.arm.config.search.evals_per_epoch))
            frames[name] = pd.DataFrame([_key(finding) | row for finding, row in rows])
    return {name: frame for name, frame in frames.items() if not frame.empty}


def runs_frame(outcomes: Sequence[Outcome], findings: Sequence[Finding]) -> pd.DataFrame:
    """Return one row per search: its score and costs, or its error."""
    found = {
        f.arm.label: {"test_accuracy": f.accuracy, **f.cost.model_dump(), "directory": f.directory} for f in findings
    }
    return pd.DataFrame(
        [
            {"method": outcome.arm.method, **outcome.arm.point, "seed": outcome.arm.seed, "error": outcome.error}
            | found.get(outcome.arm.label, {})
            for outcome in outcomes
        ]
    )


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


def _key(finding: Finding) -> Row:
    return {"method": finding.arm.method, **finding.arm.point, "seed": finding.arm.seed}


def summary_frame(findings: Sequence[Finding], control: str) -> pd.DataFrame:
    """Return one row per point and method: test accuracy over seeds, difference to the control, mean costs of a search.

    The standard deviation is over seeds, and missing with one seed. The control of a row is that of its own point.
    `p_holm` is the p-value of a difference, corrected by Holm for the number of differences in the frame;
    `flops_ratio` divides by the FLOPs of the control, over the seeds of both.
    """
    groups = _by_point_and_method(findings)
    rows: list[Row] = []
    for (point, method), own in groups.items():
        names = [score.sub_dataset for score in own[0].test]
        costs = pd.DataFrame([finding.cost.model_dump() for finding in own])
        paired, controls = _pairs(own, groups.get((point, control), []))
        rows.append(
            {
                **dict(point),
                "method": method,
                "title": PRESETS[method].title,
                **_spread([finding.accuracy for finding in own]),
                **_difference(paired, controls, names),
                "p_holm": None,
                "num_pairs": len(paired),
                **costs.mean(),
                "flops_std": costs["flops"].std(),
                "flops_ratio": sum(f.cost.flops for f in paired) / sum(f.cost.flops for f in controls)
                if paired
                else None,
            }
        )
    compared = [row for row in rows if row["p_value"] is not None]
    for row, corrected in zip(compared, holm([row["p_value"] for row in compared]), strict=True):
        row["p_holm"] = corrected
    return pd.DataFrame(rows)


def differences_frame(findings: Sequence[Finding], control: str) -> pd.DataFrame:
    """Return one row per point, method and seed: the difference to the control's search with the same seed."""
    groups = _by_point_and_method(findings)
    return pd.DataFrame(
        [
            {
                "method": method,
                **dict(point),
                "seed": finding.arm.seed,
                "difference": finding.accuracy - other.accuracy,
                "flops_ratio": finding.cost.flops / other.cost.flops,
            }
            for (point, method), own in groups.items()
            for finding, other in zip(*_pairs(own, groups.get((point, control), [])), strict=True)
        ]
    )


def sub_datasets_frame(findings: Sequence[Finding], control: str) -> pd.DataFrame:
    """Return one row per method and sub-dataset, with the columns of `summary_frame` except costs."""
    groups = _by_point_and_method(findings)
    return pd.DataFrame(
        [
            {
                "method": method,
                "sub_dataset": name,
                **_spread([score.accuracy or 0.0 for score in _scores(own, name)]),
                **_difference(*_pairs(own, groups.get((point, control), [])), [name]),
            }
            for (point, method), own in groups.items()
            for name in dict.fromkeys(score.sub_dataset for finding in own for score in finding.test)
        ]
    )


def metrics_of(summary: pd.DataFrame, axes: Sequence[str]) -> dict[str, float]:
    """Return the summary as MLflow metrics `method/column`, with the point of a sweep after the method."""
    columns = ("mean", "std", "difference", "low", "high", "p_holm", *COSTS, "flops_ratio")
    return {
        f"{' '.join([row['method'], *(row[axis] for axis in axes)])}/{column}": float(row[column])
        for row in summary.to_dict("records")
        for column in columns
        if pd.notna(row[column])
    }


def _by_point_and_method(findings: Sequence[Finding]) -> dict[Group, list[Finding]]:
    groups: dict[Group, list[Finding]] = {}
    for finding in findings:
        groups.setdefault((tuple(finding.arm.point.items()), finding.arm.method), []).append(finding)
    return groups


def _scores(findings: Sequence[Finding], name: str) -> list[SubDatasetScore]:
    return [score for finding in findings for score in finding.test if score.sub_dataset == name]


def _spread(accuracies: Sequence[float]) -> Row:
    values = pd.Series(accuracies)
    return {"num_seeds": len(values), "mean": values.mean(), "std": values.std()}


def _pairs(own: Sequence[Finding], theirs: Sequence[Finding]) -> tuple[list[Finding], list[Finding]]:
    """Return the searches of a method and of the control by their common seeds; none for the control itself."""
    control = {finding.arm.seed: finding for finding in theirs} if own is not theirs else {}
    paired = [finding for finding in own if finding.arm.seed in control]
    return paired, [control[finding.arm.seed] for finding in paired]


def _difference(paired: Sequence[Finding], controls: Sequence[Finding], names: Sequence[str]) -> Row:
    """Return the difference to the control on the named sub-datasets, and its interval; None without pairs."""
    if not paired:
        return dict.fromkeys(("difference", "low", "high", "p_value"))
    found = paired_difference(
        {name: [score.correct for score in _scores(paired, name)] for name in names},
        {name: [score.correct for score in _scores(controls, name)] for name in names},
        {name for name in names if len({finding.test_hashes[name] for finding in paired}) == 1},
    )
    return {"difference": found.mean, "low": found.low, "high": found.high, "p_value": found.p_value}


def peak_epochs(rounds: Sequence[RoundDecided], evals_per_epoch: int) -> list[Row]:
    """Return one row per sub-dataset: its peak's epoch and that of the mixture, before the first exclusion.

    The range is from the base model to the end of the roll-out of the first exclusion, or of the search without one.
    The earliest epoch wins a tie. The mixture's peak is that of the mean score over sub-datasets.

    Source: paper, the sub-datasets' optimal compute against the mixture's.
    """
    scores: dict[str, list[float]] = {}
    for event in rounds:
        if set(event.active) != set(event.sub_datasets):
            break
        for curve in event.curves:
            own = scores.setdefault(curve.sub_dataset, [])
            own += _scores_of(curve)[1 if own else 0 :]  # the first is the end of the roll-out before
        if event.decision.exclude:
            break
    means = [sum(at) / len(at) for at in zip(*scores.values(), strict=True)]
    mixture = means.index(max(means)) / evals_per_epoch
    return [
        {"sub_dataset": name, "peak_epoch": own.index(max(own)) / evals_per_epoch, "mixture_peak_epoch": mixture}
        for name, own in scores.items()
    ]


def peak_shifts(rounds: Sequence[RoundDecided], evals_per_epoch: int) -> list[Row]:
    """Return one row per exclusion and remaining sub-dataset: its peak's epoch before and after.

    Epochs are passes over the active mixture along the accepted path from the base model. Rounds that exclude more than
    one sub-dataset are left out. A peak lies inside its roll-out, so a shift is at most as long as two of them.

    Source: paper, the shift of the optimum when one sub-dataset is removed.
    """
    rows: list[Row] = []
    start = 0
    for event, after in pairwise(rounds):
        before_start, excluded = start, event.decision.exclude
        start += sorted(point.checkpoint for point in event.curves[0].points).index(event.decision.roll_back_to)
        if len(excluded) != 1:
            continue
        later = _peaks(after)
        rows += [
            {
                "round": event.round,
                "excluded": excluded[0],
                "sub_dataset": name,
                "peak_before": (before_start + peak) / evals_per_epoch,
                "peak_after": (start + later[name]) / evals_per_epoch,
                "shift": (start + later[name] - before_start - peak) / evals_per_epoch,
            }
            for name, peak in _peaks(event).items()
            if name in after.active
        ]
    return rows


def _peaks(event: RoundDecided) -> dict[str, int]:
    scores = {curve.sub_dataset: _scores_of(curve) for curve in event.curves}
    return {name: own.index(max(own)) for name, own in scores.items()}


def _scores_of(curve: Curve) -> list[float]:
    return [point.score for point in sorted(curve.points, key=lambda point: point.checkpoint)]
