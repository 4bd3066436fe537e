"""One table of a search, shown as plain text, on a terminal, as Markdown and as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import rich.table
from markupsafe import Markup, escape
from rich.text import Text

_ON_TERMINAL = {"mean": "bold", "clear": "bold", "worse": "bold red", "now": "bold red", "before": "dim"}
_IN_MARKDOWN = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_{}[]<>#|~$"})


def in_markdown(text: object) -> str:
    """Return a text that Markdown shows as it is, in one line."""
    return " ".join(str(text).split()).translate(_IN_MARKDOWN)


class Styled(str):
    """A cell with a style: mean, clear, better, worse, now or before."""

    style: str

    def __new__(cls, text: str, style: str) -> Styled:
        """Return the text with its style."""
        cell = super().__new__(cls, text)
        cell.style = style
        return cell


def styled(cells: Iterable[str], style: str) -> tuple[str, ...]:
    """Return the cells of a row, all in one style."""
    return tuple(Styled(cell, style) for cell in cells)


@dataclass(frozen=True)
class Column:
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


@dataclass(frozen=True)
class Table:
    """Columns and rows; a line break in a heading shows on the page alone."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """Return the table with aligned columns; empty without rows."""
        lines = [[column.heading.replace("\n", " ") for column in self.columns], *self.rows]
        widths = [max(len(cells[index]) for cells in lines) for index in range(len(self.columns))]
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
        for index, column in enumerate(self.columns):
            width = max(len(cells[0]) for cells in self.rows) if index == 0 else None  # never cut: it is copied
            table.add_column(
                Text(column.heading.replace("\n", " ")),
                justify="right" if column.kind == "number" else "left",
                no_wrap=column.kind == "name",
                min_width=width,
            )
        for cells in self.rows:
            table.add_row(*(Text(cell, _ON_TERMINAL.get(getattr(cell, "style", ""), "")) for cell in cells))
        return table

    def markdown(self) -> str:
        """Return the table in Markdown; empty without rows."""
        if not self.rows:
            return ""
        headings = [column.heading.replace("\n", " ") for column in self.columns]
        rules = ["---:" if column.kind == "number" else "---" for column in self.columns]
        rows = [[_markdown_cell(cell) for cell in cells] for cells in self.rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in [headings, rules, *rows])

    def html(self) -> Markup:
        """Return the table as an element of the page; the first cell of a row is its heading."""
        heads = (
            Markup('<th class="{}">{}</th>').format(column.kind, Markup("<br>").join(column.heading.split("\n")))
            for column in self.columns
        )
        rows = (
            Markup("").join(
                Markup('<{0} class="{1}">{2}</{0}>').format(
                    "td" if index else "th", f"{column.kind} {getattr(cell, 'style', '')}".strip(), escape(str(cell))
                )
                for index, (cell, column) in enumerate(zip(cells, self.columns, strict=True))
            )
            for cells in self.rows
        )
        body = Markup("").join(Markup("<tr>{}</tr>\n").format(row) for row in rows)
        head = Markup("").join(heads)
        return Markup(
            '<div class="wide"><table>\n<thead><tr>{}</tr></thead>\n<tbody>\n{}</tbody></table></div>'
        ).format(head, body)


def _markdown_cell(cell: str) -> str:
    text = in_markdown(cell)
    return f"**{text}**" if text and getattr(cell, "style", "") == "mean" else text
