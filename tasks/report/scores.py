"""The tables of a champion's scores and of a search's cost, as every page shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tasks.algorithm.costs import LedgerLine
from tasks.algorithm.exclusion import Verdict
from tasks.algorithm.state import Exclusion
from tasks.contracts import CheckpointScores, SubDatasetScore
from tasks.report import words
from tasks.report.table import Table, names, numbers, styled


def decision_table(verdicts: Iterable[Verdict], *, by_loss: bool) -> Table:
    """Return a row for each sub-dataset: its peak in the round, its score there and at the end, and its verdict."""
    unit = words.unit(by_loss=by_loss)
    rows = []
    for verdict in verdicts:
        scores = [
            words.score(words.shown(score, by_loss=by_loss))
            for score in (verdict.peak_score, verdict.end_score)
        ]
        drop = words.score(verdict.peak_score - verdict.end_score)
        cells = (verdict.sub_dataset, str(verdict.peak.step), *scores, drop, verdict.word)
        rows.append(styled(cells, {"excluded now": "now", "excluded before": "before"}.get(verdict.word, "")))
    headings = numbers("peak at step", f"{unit} at peak", f"{unit} at the end", "drop")
    return Table((*names("sub-dataset"), *headings, *names("verdict")), rows)


def champion_table(
    validation: CheckpointScores,
    test: CheckpointScores | None,
    excluded: Sequence[Exclusion],
    *,
    by_loss: bool,
) -> Table:
    """Return a row for each sub-dataset: validation score, the score at its exclusion, test scores and test rows."""
    unit = words.unit(by_loss=by_loss)
    at_exclusion = {
        exclusion.sub_dataset: words.score(words.shown(exclusion.score, by_loss=by_loss))
        for exclusion in excluded
    }
    tested = {score.sub_dataset: score for score in (test.scores if test is not None else ())}
    rows = []
    for score in validation.scores:
        on_test = tested.get(score.sub_dataset)
        rows.append(
            (
                score.sub_dataset,
                words.score(score.loss if by_loss else score.accuracy),
                at_exclusion.get(score.sub_dataset, "never"),
                words.score(on_test.loss if on_test else None),
                words.score(on_test.accuracy if on_test else None),
                f"{on_test.num_examples:,}" if on_test else "none",
            )
        )
    means = (
        words.score(mean_of(validation.scores, by_loss=by_loss), 4),
        "",
        words.score(mean_of(tuple(tested.values()), by_loss=True), 4),
        words.score(mean_of(tuple(tested.values()), by_loss=False), 4),
        "",
    )
    headings = (f"validation {unit}", f"{unit} at exclusion", "test loss", "test accuracy", "test rows")
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
