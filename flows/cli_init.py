"""`msft init`: a configuration for a folder of one's own data."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli_options import Json


def init(
    folder: Annotated[str, typer.Argument(help="A folder of JSONL, JSON, CSV or Parquet files.")],
    out: Annotated[
        str | None, typer.Option("--out", help="The YAML file to write; default: the folder's name, here.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The base model: a hub id or a directory; default: Qwen2.5-0.5B.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a commented configuration for a folder of data files, and say what was guessed.

    One sub-dataset for each file, for each group NAME_train, NAME_validation, NAME_test, or for each sub-folder.
    """
    from tasks.report.console import output

    output.choose(quiet=False, as_json=as_json)
    from tasks.commands.init import DEFAULT_MODEL, write_draft
    from tasks.commands.views import draft_values, show_draft

    draft = write_draft(folder, out, model or DEFAULT_MODEL)
    show_draft(draft)
    output.give(draft_values(draft))
