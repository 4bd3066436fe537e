"""`msft export`: the champion, to a directory or the hub."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli_options import Json, OutputRoot, Search


def export(
    search: Search,
    to: Annotated[
        str, typer.Option("--to", help="A new directory, or hub:NAME for a (private) repository of the hub.")
    ],
    output_root: OutputRoot = "searches",
    merge_lora: Annotated[
        bool, typer.Option(help="Merge LoRA into the weights; without, the adapters alone.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Export the champion of a finished search: an ordinary model directory, or its adapters."""
    from tasks.report.console import output

    output.choose(quiet=False, as_json=as_json)
    from tasks.commands.export import export_champion
    from tasks.record.status import find_search
    from tasks.report.plan_view import size_text
    from tasks.report.terminal import say

    done = export_champion(find_search(output_root, search), to, merge_lora=merge_lora)
    kind = "adapters" if done.has_adapters_only else "model"
    say(f"{kind} of {done.search}, {done.checkpoint}: {size_text(done.num_bytes)} in {done.to}")
    output.give(done.model_dump())
