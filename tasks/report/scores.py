"""The tables of a champion's scores and of a search's cost, as every page shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tasks.algorithm.costs import LedgerLine
from tasks.algorithm.curves import Verdict
from tasks.contracts import CheckpointScores, SubDatasetScore
from tasks.record.view import Metric, Score, SearchView
from tasks.report import words
from tasks.report.table import Table, names, numbers, styled


def decision_table(verdicts: Iterable[Verdict], metric: Metric) -> Table:
    """Return a row for each sub-dataset: its peak in the round, its score there and at the end, and its verdict."""
    rows = []
    for verdict in verdicts:
        scores = [words.score(Score(score, metric).shown) for score in (verdict.peak_score, verdict.end_score)]
        drop = words.score(verdict.peak_score - verdict.end_score)
        cells = (verdict.sub_dataset, str(verdict.peak.step), *scores, drop, verdict.word)
        rows.append(styled(cells, {"excluded now": "now", "excluded before": "before"}.get(verdict.word, "")))
    headings = numbers("peak at step", f"{metric} at peak", f"{metric} at the end", "drop")
    return Table((*names("sub-dataset"), *headings, *names("verdict")), rows)


def champion_table(view: SearchView, validation: CheckpointScores, test: CheckpointScores | None) -> Table:
    """Return a row for each sub-dataset: validation score, the score at its exclusion, test scores and test rows."""
    rows = [
        (
            row.sub_dataset,
            words.score(row.validation),
            "never" if row.at_exclusion is None else words.score(row.at_exclusion),
            words.score(row.test_loss),
            words.score(row.test_accuracy),
            "none" if row.num_test_rows is None else f"{row.num_test_rows:,}",
        )
        for row in view.champion_rows(validation, test)
    ]
    tested = test.scores if test is not None else ()
    means = (
        words.score(mean_of(validation.scores, by_loss=view.metric == "loss"), 4),
        "",
        words.score(mean_of(tested, by_loss=True), 4),
        words.score(mean_of(tested, by_loss=False), 4),
        "",
    )
    headings = (f"validation {view.metric}", f"{view.metric} at exclusion", "test loss", "test accuracy", "test rows")
    return Table((*names("sub-dataset"), *numbers(*headings)), [*rows, styled(("mean", *means), "mean")])


def mean_of(scores: Sequence[SubDatasetScore], *, by_loss: bool) -> float | None:
    """Return the mean over sub-datasets, of losses or of the accuracies that were measured."""
    values = [score.loss if by_loss else score.accuracy for score in scores]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def cost_table(lines: Iterable[LedgerLine]) -> Table:
    """Return a row for each kind of work."""
    rows = [
        (
            line.kind,
            f"{line.num_tokens:,}",
            f"{line.num_examples:,}",
            words.flops(line.flops),
            f"{line.seconds:,.1f}",
            words.size(line.num_bytes),
        )
        for line in lines
    ]
    return Table((*names("work"), *numbers("tokens", "rows", "FLOPs", "seconds", "written")), rows)
