"""The commands `msft compare` and `msft sweep`."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli_options import Json, Methods, Overrides, Parallel, Quiet, Seeds
from tasks.errors import ConfigError


def compare(
    config: Annotated[str, typer.Argument(help="The YAML file that all methods share.")],
    methods: Methods = "sft,msft",
    seeds: Seeds = "",
    control: Annotated[str, typer.Option(help="What the others are measured against; default: sft.")] = "",
    parallel: Parallel = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Search with several methods and seeds at one budget; tables, CSV files and a plot say which is best."""
    from tasks.report.console import output

    output.choose(quiet=quiet, as_json=as_json)
    from flows.compare import compare_methods
    from tasks.comparison.report import read_report
    from tasks.config.loading import load_config
    from tasks.runtime.prefect_server import run_flow

    loaded = load_config(config, overrides or [])
    chosen, numbers = split_list(methods), seeds_of(seeds)
    done = run_flow(
        lambda: compare_methods(loaded, chosen, numbers, control, parallel=parallel), loaded.output_root
    )
    output.give(read_report(done.directory))


def sweep(
    config: Annotated[str, typer.Argument(help="The YAML file that all searches share.")],
    over: Annotated[
        list[str],
        typer.Option(
            help="An axis: search.compute_budget_epochs=1,2,3 or any other value of the configuration; "
            "num_sub_datasets=5,10 (the first k); rows=900,1800 (the most of each sub-dataset to train on); "
            "split=none,NAME:COLUMN (a sub-dataset for each category of one)."
        ),
    ],
    methods: Methods = "sft,msft",
    seeds: Seeds = "",
    parallel: Parallel = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Search over a grid of settings; plots show peaks, their shift after an exclusion, accuracy and FLOPs."""
    from tasks.report.console import output

    output.choose(quiet=quiet, as_json=as_json)
    from flows.compare import compare_methods
    from tasks.comparison.grid import read_axis
    from tasks.comparison.report import read_report
    from tasks.config.loading import load_config
    from tasks.runtime.prefect_server import run_flow

    loaded = load_config(config, overrides or [])
    axes = tuple(read_axis(text) for text in over)
    chosen, numbers = split_list(methods), seeds_of(seeds)
    done = run_flow(
        lambda: compare_methods(loaded, chosen, numbers, axes=axes, parallel=parallel), loaded.output_root
    )
    output.give(read_report(done.directory))


def split_list(text: str) -> tuple[str, ...]:
    """Return the items of `a,b,c`."""
    return tuple(item.strip() for item in text.split(",") if item.strip())


def seeds_of(text: str) -> tuple[int, ...]:
    """Return the numbers of `1,2,3`.

    Raises:
        ConfigError: one is no number.
    """
    wrong = [item for item in split_list(text) if not item.isdecimal()]
    if wrong:
        raise ConfigError("--seeds", [f"wanted whole numbers; got {item!r}" for item in wrong])
    return tuple(int(item) for item in split_list(text))
