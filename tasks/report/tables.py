"""The tables of a search and of a plan, as plain text, on a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import rich.table
from rich.text import Text

from tasks.algorithm.answer_shares import SplitFacts
from tasks.algorithm.costs import LedgerLine
from tasks.algorithm.curves import Verdict
from tasks.contracts import CheckpointScores, SubDatasetScore
from tasks.planning.pricing import Price
from tasks.record.plan import BOUNDS, Comparison, Plan
from tasks.record.suspects import Suspects
from tasks.record.view import Metric, Score, SearchView
from tasks.report import words

_ON_TERMINAL = {"mean": "bold", "clear": "bold", "excluded now": "bold red", "excluded before": "dim"}
_IN_MARKDOWN = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_{}[]<>#|~$"})
_QUANTITIES = {
    "num_rounds": "rounds",
    "num_epochs": "full-mixture epochs",
    "num_steps": "optimizer steps",
    "num_examples": "training examples",
    "num_checkpoints": "checkpoints scored",
    "training_tokens": "training tokens",
    "training_flops": "training FLOPs",
    "evaluation_tokens": "evaluation tokens",
    "evaluation_flops": "evaluation FLOPs",
    "test_flops": "FLOPs of the test scores",
    "bytes_written": "checkpoints written",
    "disk_bytes": "disk at its fullest",
}


class Column(NamedTuple):
    """A heading, and what stands below it: a name (one line), a text (may wrap) or a number (right-aligned)."""

    heading: str
    kind: str


def names(*headings: str) -> tuple[Column, ...]:
    """Return columns of names."""
    return tuple(Column(heading, "name") for heading in headings)


def texts(*headings: str) -> tuple[Column, ...]:
    """Return columns of texts."""
    return tuple(Column(heading, "long") for heading in headings)


def numbers(*headings: str) -> tuple[Column, ...]:
    """Return columns of numbers."""
    return tuple(Column(heading, "number") for heading in headings)


def in_markdown(text: object) -> str:
    """Return a text that Markdown shows as it is, in one line."""
    return " ".join(str(text).split()).translate(_IN_MARKDOWN)


@dataclass(frozen=True)
class Table:
    """Columns and rows; `styles` are those of rows by their index: mean, clear, excluded now or excluded before."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    styles: Mapping[int, str] = field(default_factory=dict)

    def text(self) -> str:
        """Return the table with aligned columns."""
        lines = [[column.heading for column in self.columns], *self.rows]
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if column.kind == "number" else cell.ljust(width)
                for cell, width, column in zip(cells, widths, self.columns, strict=True)
            ).rstrip()
            for cells in lines
        )

    def rich(self) -> rich.table.Table:
        """Return the table for a terminal."""
        table = rich.table.Table(box=None, pad_edge=False)
        for index, (heading, kind) in enumerate(self.columns):
            width = max(len(cells[0]) for cells in self.rows) if index == 0 else None  # never cut: it is copied
            table.add_column(Text(heading), no_wrap=kind == "name", min_width=width)
            table.columns[-1].justify = "right" if kind == "number" else "left"
        for index, cells in enumerate(self.rows):
            style = _ON_TERMINAL.get(self.styles.get(index, ""), "")
            table.add_row(*(Text(cell, style) for cell in cells))
        return table

    def markdown(self) -> str:
        """Return the table in Markdown; empty without rows."""
        if not self.rows:
            return ""
        rows = [[in_markdown(cell) for cell in cells] for cells in self.rows]
        for index in (index for index, style in self.styles.items() if style == "mean"):
            rows[index] = [cell and f"**{cell}**" for cell in rows[index]]
        rules = ["---:" if column.kind == "number" else "---" for column in self.columns]
        headings = [column.heading for column in self.columns]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in [headings, rules, *rows])


def decision_table(verdicts: Iterable[Verdict], metric: Metric) -> Table:
    """Return a row for each sub-dataset: its peak in the round, its score there and at the end, and its verdict."""
    rows = [
        (
            verdict.sub_dataset,
            str(verdict.peak.step),
            *(words.score(Score(score, metric).shown) for score in (verdict.peak_score, verdict.end_score)),
            words.score(verdict.peak_score - verdict.end_score),
            verdict.word,
        )
        for verdict in verdicts
    ]
    headings = numbers("peak at step", f"{metric} at peak", f"{metric} at the end", "drop")
    styles = {index: row[-1] for index, row in enumerate(rows)}
    return Table((*names("sub-dataset"), *headings, *names("verdict")), rows, styles)


def champion_table(view: SearchView, validation: CheckpointScores, test: CheckpointScores | None) -> Table:
    """Return a row for each sub-dataset: validation score, the score at its exclusion, test scores and test rows.

    Beside each score stands what the most frequent answer would score, where the journal has it.
    """
    tested, untested = test.scores if test is not None else (), (words.score(None), words.score(None), "none")
    at_exclusion = {e.sub_dataset: words.score(view.score(e.score).shown) for e in view.state.excluded}
    on_test = {
        score.sub_dataset: (words.score(score.loss), words.score(score.accuracy), f"{score.num_examples:,}")
        for score in tested
    }
    rows = [
        [name, words.score(getattr(score, view.metric)), at_exclusion.get(name, "never"), *on_test.get(name, untested)]
        for score in validation.scores
        for name in [score.sub_dataset]
    ]
    means = (mean_of(validation.scores, view.metric), None, mean_of(tested, "loss"), mean_of(tested, "accuracy"))
    first, _, *others = (words.score(mean, 4) for mean in means)
    headings = [f"validation {view.metric}", f"{view.metric} at exclusion", "test loss", "test accuracy", "test rows"]
    lines = [*rows, ["mean", first, "", *others, ""]]
    for place, split in ((5, "test"), (2, "validation")) if view.started.facts else ():
        headings.insert(place - 1, "constant answer")
        for cells in lines:
            cells.insert(place, words.score(view.constant_score(cells[0], split)) if cells is not lines[-1] else "")
    return Table((*names("sub-dataset"), *numbers(*headings)), [tuple(cells) for cells in lines], {len(rows): "mean"})


def mean_of(scores: Sequence[SubDatasetScore], metric: Metric) -> float | None:
    """Return the mean over sub-datasets, of losses or of the accuracies that were measured."""
    known = [value for score in scores if (value := getattr(score, metric)) is not None]
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


def suspects_table(view: SearchView) -> Table:
    """Return a row for each sub-dataset: how many of its train rows its peak answers otherwise than labelled."""
    rows = [
        (name, words.checkpoint(one.key), f"{one.num_rows:,}", f"{len(one.rows):,}", words.share(_part(one)))
        for name, one in view.suspects.items()
    ]
    return Table((*names("sub-dataset", "its peak"), *numbers("train rows", "suspect", "of them")), rows)


def _part(one: Suspects) -> float:
    return len(one.rows) / max(1, one.num_rows)


def facts_table(facts: Mapping[str, Mapping[str, SplitFacts]]) -> Table:
    """Return a row for each split: its rows, those left out as too long, and what its most frequent answer scores."""
    rows = [
        (
            name,
            split,
            f"{own.num_rows:,}",
            f"{own.num_dropped:,}" if own.num_dropped else "–",
            words.score(own.top_share),
            "–" if own.top_answer is None else words.short(" ".join(own.top_answer.split()), 24),
        )
        for name, by_split in facts.items()
        for split, own in by_split.items()
    ]
    columns = (*names("sub-dataset", "split"), *numbers("rows", "dropped", "a constant answer scores"))
    return Table((*columns, *texts("the answer")), rows)


def estimate_table(plan: Plan, prices: Mapping[str, Price]) -> Table:
    """Return a row for each quantity of a plan, and each of its price where a speed is known."""
    rows = [
        (label, *(_shown(quantity, getattr(getattr(plan, bound), quantity)) for bound in BOUNDS))
        for quantity, label in _QUANTITIES.items()
    ]
    for quantity, label, digits in (("hours", "hours", 3), ("gpu_hours", "GPU-hours", 3), ("money", "price", 2)):
        values = [getattr(prices[bound], quantity) for bound in BOUNDS if bound in prices]
        if values and values[0] is not None:
            rows.append((label, *(f"{value:,.{digits}f}" for value in values)))
    return Table((*names(""), *numbers(*BOUNDS)), rows)


def plan_table(comparisons: Sequence[Comparison]) -> Table:
    """Return a row for each quantity: its least, as expected and most by the plan, and what it came to."""
    rows = [
        (
            _QUANTITIES[row.quantity],
            *(_shown(row.quantity, value) for value in (row.least, row.expected, row.most, row.actual)),
        )
        for row in comparisons
    ]
    return Table((*names("plan and actual"), *numbers(*BOUNDS, "actual")), rows)


def _shown(quantity: str, value: float) -> str:
    if "flops" in quantity or "bytes" in quantity:
        return words.flops(value) if "flops" in quantity else words.size(value)
    return f"{value:,.2f}" if quantity == "num_epochs" else f"{value:,.0f}"
