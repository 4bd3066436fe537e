"""`msft status` and `msft resume`: where searches stand, and how they go on."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli_options import AcceptChanges, Json, OutputRoot, Overrides, Quiet, Search


def status(
    search: Annotated[str | None, typer.Argument(help="One search; default: all of the folder.")] = None,
    output_root: OutputRoot = "searches",
    as_json: Json = False,
) -> None:
    """Say where searches stand: running (and by whom), resumable or finished; round, exclusions, champion, budget."""
    from tasks.report.console import output

    output.choose(quiet=False, as_json=as_json)
    from tasks.commands.views import show_search_status, show_statuses
    from tasks.record.status import find_search, list_searches, status_of

    if search is not None:
        one = status_of(find_search(output_root, search))
        show_search_status(one)
        output.give(one.model_dump())
        return
    found = list_searches(output_root)
    show_statuses(found, output_root)
    output.give([one.model_dump() for one in found])


def resume(
    search: Search,
    output_root: OutputRoot = "searches",
    overrides: Overrides = None,
    accept_changes: AcceptChanges = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Go on with a search from what its directory holds; no configuration file is needed."""
    from tasks.report.console import output

    output.choose(quiet=quiet, as_json=as_json)
    from flows.search import msft_search
    from tasks.record.status import find_search, read_summary, resumed_config
    from tasks.runtime.prefect_server import run_flow

    directory = find_search(output_root, search)
    config = resumed_config(directory, overrides or [])
    run_flow(lambda: msft_search(config, accept_changes), config.output_root)
    output.give(read_summary(directory))
