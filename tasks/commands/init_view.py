"""What a person sees of a configuration that was written for them."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from tasks.commands.init import Draft, DraftPart
from tasks.report.console import console, print_table


def show_draft(draft: Draft) -> None:
    """Print what was found and guessed, and the next command."""
    console.print(f"wrote {escape(draft.path)}: {len(draft.parts)} sub-datasets")
    table = Table(box=None, pad_edge=False)
    for heading in ("sub-dataset", "rows", "validation", "test", "scored by", "read as"):
        table.add_column(heading)
    for part in draft.parts:
        table.add_row(
            escape(part.data.name),
            f"{part.form.num_rows:,}",
            _split_text(part, "validation"),
            _split_text(part, "test"),
            part.form.metric,
            escape(part.form.form),
        )
    print_table(table)
    for remark in draft.remarks:
        console.print(f"[yellow]look at[/yellow] {escape(remark)}")
    console.print(f"next: msft plan {escape(draft.path)}")


def draft_values(draft: Draft) -> dict[str, Any]:
    """Return the draft for machines."""
    return {
        "config": draft.path,
        "sub_datasets": [
            {
                "name": part.data.name,
                "files": {split: str(file) for split, file in part.data.files.items()},
                "rows": part.form.num_rows,
                "splits": dict(part.splits),
                "form": part.form.form,
                "template": dict(part.form.template) if part.form.template is not None else None,
                "metric": part.form.metric,
                "remark": part.form.remark,
            }
            for part in draft.parts
        ],
    }


def _split_text(part: DraftPart, split: str) -> str:
    value = part.splits[split]
    return f"{value:,} rows" if isinstance(value, int) else f"{value['carve']:,} carved"
