"""The command `msft report`: a search's page, from its files alone."""

from __future__ import annotations

from typing import Annotated

import typer


def report(
    search: Annotated[
        str, typer.Argument(help="A search's directory, or its name or id under --output-root.")
    ],
    output_root: Annotated[str, typer.Option(help="What holds the searches' directories.")] = "searches",
) -> None:
    """Write the report of a search, ended or not, as one HTML page and as Markdown."""
    from tasks.report.page import write_page
    from tasks.search_status import find_search

    for page in write_page(find_search(output_root, search)):
        print(page)
