"""The command `msft report`: a search's page, from its files alone."""

from __future__ import annotations

from flows.cli_options import Json, OutputRoot, Search


def report(search: Search, output_root: OutputRoot = "searches", as_json: Json = False) -> None:
    """Write the report of a search, ended or not, as one HTML page and as Markdown."""
    from tasks.report.console import output

    output.choose(quiet=False, as_json=as_json)
    from tasks.record.status import find_search
    from tasks.report.page import write_page
    from tasks.report.terminal import say

    pages = [str(page) for page in write_page(find_search(output_root, search))]
    for page in pages:
        say(page)
    output.give({"pages": pages})
