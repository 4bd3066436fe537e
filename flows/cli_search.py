"""Commands along the life of one search, from init to export."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.cli_options import AcceptChanges, Config, Json, OutputRoot, Overrides, Quiet, Search
from tasks.config.identity import explain_config
from tasks.config.loading import load_config
from tasks.report.messages import tell
from tasks.report.terminal import log_to_terminal

if TYPE_CHECKING:
    from tasks.config.schema import SearchConfig
    from tasks.data.inspection import InspectedRow


def init(
    folder: Annotated[
        str | None, typer.Argument(help="Folder of JSONL, JSON, CSV or Parquet files; with --example, my_data.")
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", help="YAML file to write; default: the folder's name, here.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Base model: a hub id or a directory; default: Qwen2.5-0.5B.")
    ] = None,
    example: Annotated[
        bool, typer.Option("--example", help="Write example rows into a new folder first, for a small shipped model.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a commented configuration for a folder of data files.

    Each file is a sub-dataset, or each group NAME_train, NAME_validation, NAME_test, or each sub-folder.
    """
    give = log_to_terminal(as_json=as_json).give
    from tasks.commands import example as rows
    from tasks.commands.init import DEFAULT_MODEL, write_draft
    from tasks.commands.views import draft_values, show_draft

    if folder is None and not example:
        raise typer.BadParameter("give the folder of your data, or --example", param_hint="FOLDER")
    if example:
        rows.write_rows(folder or rows.FOLDER)
    draft = write_draft(folder or rows.FOLDER, out, model or (rows.MODEL if example else DEFAULT_MODEL))
    show_draft(draft)
    if example:
        tell(f"or:   msft search {draft.path} {rows.SETTINGS}")
    give(draft_values(draft))


def inspect(
    config: Config,
    name: Annotated[str | None, typer.Argument(help="One sub-dataset; default: all.")] = None,
    split: Annotated[
        Literal["train", "validation", "test"] | None, typer.Option(help="Default: train and validation.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=0, help="Rows of each split; default: 3, with --json all.")] = None,
    html: Annotated[str | None, typer.Option("--html", help="Write the rows as one HTML page, too.")] = None,
    suspects: Annotated[
        bool, typer.Option("--suspects", help="Show the train rows that their sub-dataset's peak answers otherwise.")
    ] = False,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a row on stdout.")] = False,
) -> None:
    """Show rows as the model sees them: tokens, which of them are learned, choices, lengths, problems.

    All rows are read and counted; the first of each split are shown, and the first with each kind of problem.
    """
    log_to_terminal(as_json=as_json)
    from tasks.commands.rows import SHOWN, show_rows, summarize, write_rows
    from tasks.data.inspection import inspect_rows

    loaded = load_config(config, overrides or [])
    if suspects:
        _show_suspects(loaded, name, limit, as_json)
        return
    rows = inspect_rows(loaded, name, split)
    splits = summarize(_printed(rows, limit) if as_json else rows, SHOWN if limit is None else limit)
    if not as_json:
        show_rows(splits)
    if html is not None:
        write_rows(splits, loaded.name, html)
        tell(f"wrote {html}")


def _show_suspects(config: SearchConfig, name: str | None, limit: int | None, as_json: bool) -> None:
    from tasks.commands.suspects import SHOWN, show_suspects, suspects_of

    found = suspects_of(config, name)
    if not as_json:
        show_suspects(found, SHOWN if limit is None else limit)
        return
    for own, one in found.items():
        for row in one.rows[:limit]:
            print(json.dumps({"sub_dataset": own, **row.model_dump()}, ensure_ascii=False))


def _printed(rows: Iterable[InspectedRow], limit: int | None) -> Iterator[InspectedRow]:
    for row in rows:
        if limit is None or row.row < limit:
            print(json.dumps(asdict(row), ensure_ascii=False))
        yield row


def plan(
    config: Config,
    overrides: Overrides = None,
    flops_per_s: Annotated[
        float | None,
        typer.Option(min=1.0, help="FLOPs per second of one device; default: measured on earlier searches here."),
    ] = None,
    price_per_gpu_hour: Annotated[
        float | None, typer.Option(min=0.0, help="Price of one device per hour, in any currency.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Estimate the cost of a search: steps, tokens, FLOPs, checkpoints, disk, hours and money.

    Each quantity has a minimum, an expected value with one exclusion per round, and a maximum. The data is read and
    tokenized, which the search reuses.
    """
    give = log_to_terminal(quiet=quiet, as_json=as_json).give
    loaded = load_config(config, overrides or [])
    from tasks.planning.plan import make_plan
    from tasks.planning.pricing import measured_speed, num_devices_of, price_plan, stated_speed
    from tasks.preparation import prepare_inputs
    from tasks.report.messages import show_plan

    inputs = prepare_inputs.fn(loaded)
    planned = make_plan(loaded, inputs)
    speed = stated_speed(flops_per_s) if flops_per_s else measured_speed(loaded.output_root, inputs.model.sha256)
    prices = price_plan(planned, speed, num_devices_of(loaded), price_per_gpu_hour) if speed else {}
    show_plan(planned, speed, prices)
    give(
        {
            "plan": planned.model_dump(),
            "speed": speed.model_dump() if speed is not None else None,
            "prices": {bound: price.model_dump() for bound, price in prices.items()},
        }
    )


def score(
    config: Config,
    model: Annotated[
        str | None, typer.Option(help="A model directory, a GGUF file or a hub id; default: the base model.")
    ] = None,
    split: Annotated[Literal["validation", "test"], typer.Option(help="The rows to score.")] = "validation",
    rows: Annotated[bool, typer.Option("--rows", help="Show what the model answers to each row.")] = False,
    overrides: Overrides = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Score a model on a mixture as the search does: the base, an exported champion or any other.

    A path is relative to the folder one stands in.
    """
    give = log_to_terminal(quiet=quiet, as_json=as_json).give
    loaded = load_config(config, overrides or [])
    from tasks.commands.score import score_model, show_scores

    scores = score_model(loaded, model, split, with_rows=rows)
    show_scores(scores)
    give(scores.model_dump())


def search(
    config: Config,
    overrides: Overrides = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print all values as YAML, defaults marked, and run nothing.")
    ] = False,
    accept_changes: AcceptChanges = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Search for the champion of a mixture; run again after an interruption, the search resumes."""
    give = log_to_terminal(quiet=quiet, as_json=as_json).give
    loaded = load_config(config, overrides or [])
    if print_config:
        print(explain_config(loaded), end="")
        return
    _search(loaded, accept_changes, give)


def headroom(config: Config, overrides: Overrides = None, quiet: Quiet = False, as_json: Json = False) -> None:
    """Measure what a search could gain at most, from one roll-out of SFT with averaged weights.

    The roll-out spends the budget once, and is the one of `msft compare --methods sft_ema`; run again, it resumes.
    """
    give = log_to_terminal(quiet=quiet, as_json=as_json).give
    from tasks.commands.headroom import load_both, show_headroom
    from tasks.record.ownership import directory_of
    from tasks.runtime.prefect_server import run_flow

    plain, full = load_both(config, overrides or [])

    def run() -> object:
        from flows.search import msft_search

        return msft_search(plain)

    run_flow(run, plain.output_root, "flows.search")
    give(show_headroom(str(directory_of(plain)), full))


def resume(
    search: Search,
    output_root: OutputRoot = "searches",
    overrides: Overrides = None,
    accept_changes: AcceptChanges = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Resume a search from its directory, without its configuration file."""
    give = log_to_terminal(quiet=quiet, as_json=as_json).give
    from tasks.record.status import find_search, resumed_config

    _search(resumed_config(find_search(output_root, search), overrides or []), accept_changes, give)


def _search(config: SearchConfig, accept_changes: bool, give: Callable[[Any], None]) -> None:
    from tasks.record.ownership import directory_of
    from tasks.record.status import read_summary
    from tasks.runtime.prefect_server import run_flow

    def run() -> object:
        from flows.search import msft_search

        return msft_search(config, accept_changes)

    run_flow(run, config.output_root, "flows.search")
    give(read_summary(str(directory_of(config))))


def status(
    search: Annotated[str | None, typer.Argument(help="One search; default: all of the folder.")] = None,
    output_root: OutputRoot = "searches",
    as_json: Json = False,
) -> None:
    """Show the status of searches: running, resumable or finished; round, exclusions, champion, budget."""
    give = log_to_terminal(as_json=as_json).give
    from tasks.commands.views import show_search_status, show_statuses
    from tasks.record.status import find_search, list_searches, status_of

    if search is not None:
        one = status_of(find_search(output_root, search), with_headroom=True)
        show_search_status(one)
        give(one.model_dump())
        return
    found = list_searches(output_root)
    show_statuses(found, output_root)
    give([one.model_dump() for one in found])


def report(search: Search, output_root: OutputRoot = "searches", as_json: Json = False) -> None:
    """Write the report of a search, finished or not, as one HTML page and as Markdown."""
    give = log_to_terminal(as_json=as_json).give
    from tasks.record.status import find_search
    from tasks.report.page import write_page

    pages = [str(page) for page in write_page(find_search(output_root, search))]
    for page in pages:
        tell(page)
    give({"pages": pages})


def export(
    search: Search,
    to: Annotated[str, typer.Option("--to", help="A new directory, or hub:NAME for a private repository on the hub.")],
    output_root: OutputRoot = "searches",
    merge_lora: Annotated[
        bool, typer.Option("--merge-lora/--no-merge-lora", help="Merge LoRA into the weights, or export the adapters.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Export the champion of a finished search as a model directory, or its adapters."""
    give = log_to_terminal(as_json=as_json).give
    from tasks.commands.export import export_champion
    from tasks.record.status import find_search
    from tasks.report import words

    done = export_champion(find_search(output_root, search), to, merge_lora=merge_lora)
    kind = "adapters" if done.has_adapters_only else "model"
    tell(f"{kind} of {done.search}, {done.checkpoint}: {words.size(done.num_bytes)} in {done.to}")
    give(done.model_dump())
