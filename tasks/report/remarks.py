"""Warnings in the report."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from tasks.algorithm.curves import Curve
from tasks.record.view import SearchView
from tasks.report import words
from tasks.report.findings import is_discarded
from tasks.report.tables import score_rows

# Measured: with 100 validation rows a decision repeats only half of the time between two halves of the data.
FEW_ROWS = 200


@dataclass(frozen=True)
class Remark:
    """A warning: its kind in a word or two, and what it says of this search."""

    kind: str
    text: str


def remarks(view: SearchView) -> tuple[Remark, ...]:
    """Return the warnings of a search, the gravest first."""
    kinds = (_protocol, _changes, _few_rows, _noisy_peaks, _forgetting, _champion, _no_gain)
    return tuple(remark for kind in kinds for remark in kind(view))


def doubt_of_fall(curve: Curve, *, is_accuracy: bool) -> str:
    """Return why the fall from peak to end may be noise, in words; empty where neither sign of it shows.

    The signs: after its peak the curve rose again by as much as it lost in all; or, for an accuracy, the fall is
    within two standard errors of a difference of two scores over so many rows.
    """
    after = [point.score for point in curve.points if point.checkpoint >= curve.peak.checkpoint]
    rise = max(max(after[index:]) - low for index, low in enumerate(after))
    if rise >= curve.drop > 0:
        return f"fell by {curve.drop:.3f}, yet rose by {rise:.3f} again after its peak"
    num_rows = curve.peak.num_examples
    variance = sum(max(0.0, p * (1 - p)) for p in (curve.peak.score, curve.end.score)) / num_rows
    spread = 2 * math.sqrt(variance)
    if is_accuracy and 0 < curve.drop <= spread:
        return f"fell by {curve.drop:.3f}, within the ±{spread:.3f} that {num_rows} rows leave open"
    return ""


def _protocol(view: SearchView) -> Iterator[Remark]:
    if view.is_paper_protocol:
        yield Remark(
            "selected on test",
            "search.protocol is paper: peaks, exclusions and the champion were chosen on the test splits, as in "
            "the paper, so the test scores here are not those of unseen data.",
        )


def _changes(view: SearchView) -> Iterator[Remark]:
    if view.accepted_changes:
        yield Remark(
            "changed on the way",
            f"The search went on with {words.listed(view.accepted_changes)}; it may differ from an undisturbed one.",
        )


def _few_rows(view: SearchView) -> Iterator[Remark]:
    if not view.rounds:
        return
    curves = view.rounds[0].curves
    few = [f"{name} ({count})" for name in view.names if (count := curves[name].end.num_examples) < FEW_ROWS]
    if few:
        yield Remark(
            "few validation rows",
            f"{words.listed(few)} {'has' if len(few) == 1 else 'have'} fewer than {FEW_ROWS} validation rows; with "
            "100, a decision repeated only half of the time on the other half of the data.",
        )


def _noisy_peaks(view: SearchView) -> Iterator[Remark]:
    doubts = [
        f"{name} in round {told.index} ({doubt})"
        for told in view.rounds
        for name in told.exclude
        if (doubt := doubt_of_fall(told.curves[name], is_accuracy=not view.started.by_loss))
    ]
    if doubts:
        yield Remark(
            "noisy peak",
            f"The fall that excluded {words.listed(doubts)} may be noise; another seed or more validation rows may "
            "decide otherwise.",
        )


def _forgetting(view: SearchView) -> Iterator[Remark]:
    lost = [
        f"{row.name} ({words.score(row.at_exclusion)} → {words.score(row.at_end)})"
        for row in score_rows(view)
        if row.since_exclusion is not None and row.since_exclusion < -_min_delta(view)
    ]
    if lost:
        yield Remark(
            "forgetting",
            f"After their exclusion, {words.listed(lost)} lost more than {_min_delta(view):g} on the accepted path "
            "while the others were trained.",
        )


def _champion(view: SearchView) -> Iterator[Remark]:
    champion = view.champion
    if champion is not None and is_discarded(view, champion.checkpoint):
        yield Remark(
            "champion off the path",
            f"The best checkpoint, {champion.checkpoint}, lies on a discarded stretch: what the search trained "
            "afterwards did not beat it on the mean over all sub-datasets.",
        )


def _no_gain(view: SearchView) -> Iterator[Remark]:
    champion = view.champion
    if champion is not None and view.state.is_finished and champion.checkpoint == view.rounds[0].start:
        yield Remark("nothing gained", "The champion is the base model itself: no checkpoint was better.")


def _min_delta(view: SearchView) -> float:
    return float(view.started.config["search"]["min_delta"])
