"""`msft inspect`: rows as the model sees them, on a terminal and as one HTML page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from jinja2 import Environment, PackageLoader, StrictUndefined

from tasks.data.inspection import InspectedRow
from tasks.report.messages import tell, tell_table
from tasks.report.tables import Table, names, numbers, texts
from tasks.runtime.files import write_file

SHOWN = 3


@dataclass
class SplitSummary:
    """The rows of one split: their number and lengths, what is wrong with them, and those that are shown."""

    sub_dataset: str
    split: str
    lengths: list[int] = field(default_factory=list)
    num_learned: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    shown: list[InspectedRow] = field(default_factory=list)

    def cells(self) -> tuple[str, ...]:
        """Return the row of a table."""
        share = self.num_learned / max(1, sum(self.lengths))
        remarks = "; ".join(f"{count:,}: {text}" for text, count in self.problems.most_common(5))
        middle, most = (median(self.lengths), max(self.lengths)) if self.lengths else (0, 0)
        counted = f"{len(self.lengths):,}", f"{middle:,.0f}", f"{most:,}", f"{share:.0%}"
        return self.sub_dataset, self.split, *counted, remarks or "none"


COLUMNS = (*names("sub-dataset", "split"), *numbers("rows", "median", "most tokens", "learned"), *texts("problems"))


def summarize(rows: Iterable[InspectedRow], limit: int) -> list[SplitSummary]:
    """Return a summary of each split with its first `limit` rows, and the first of each kind of problem."""
    splits: dict[tuple[str, str], SplitSummary] = {}
    for row in rows:
        one = splits.setdefault((row.sub_dataset, row.split), SplitSummary(row.sub_dataset, row.split))
        kinds = [remark.partition(":")[0] for remark in row.remarks]
        if row.row < limit or any(kind not in one.problems for kind in kinds):
            one.shown.append(row)
        one.problems.update(kinds)
        one.lengths.append(len(row.tokens))
        one.num_learned += sum(row.loss_mask)
    return list(splits.values())


def show_rows(splits: Iterable[SplitSummary]) -> None:
    """Tell the summary, then the rows: in brackets and green what is learned, each second token underlined."""
    splits = list(splits)
    tell_table(Table(COLUMNS, [one.cells() for one in splits]))
    for row in (row for one in splits for row in one.shown):
        tell((f"\n{row.sub_dataset}/{row.split} row {row.row}", "bold"), f" {length_of(row)}")
        for remark in row.remarks:
            tell(("problem", "yellow"), f" {remark}")
        if row.tokens:
            tell(*_styled(row.parts))
        else:
            tell((row.prompt, "dim"), "".join(row.supervised))
        for choice in row.choices:
            tell("right  " if choice.is_right else "wrong  ", *_styled([(True, list(choice.tokens))]))


def _styled(parts: Iterable[tuple[bool, list[str]]]) -> list[tuple[str, str]]:
    styled = []
    for is_learned, tokens in parts:
        color = "green" if is_learned else "dim"
        inner = [(token, f"{color} underline" if at % 2 else color) for at, token in enumerate(tokens)]
        styled += [("⟦", "bold green"), *inner, ("⟧", "bold green")] if is_learned else inner
    return styled


def length_of(row: InspectedRow) -> str:
    """Return the row's length in words, and its place in the source."""
    words = f"{len(row.tokens):,} tokens, {sum(row.loss_mask):,} of them learned" if row.tokens else "not tokenized"
    return f"{words}; {row.where}" if row.where else words


def write_rows(splits: Iterable[SplitSummary], title: str, path: str) -> None:
    """Write the same as one HTML page that needs nothing beside it."""
    environment = Environment(
        loader=PackageLoader("tasks.commands"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    contents = {"title": title, "headings": [column.heading for column in COLUMNS], "length_of": length_of}
    page = environment.get_template("rows.html.j2").render(splits=list(splits), **contents)
    write_file(Path(path), page)
