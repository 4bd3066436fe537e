"""Commands for several searches: compare, sweep and methods."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli_options import Json, Overrides, Parallel, Quiet, Seeds
from tasks.errors import ConfigError


def _list_on_help(methods: str) -> str:
    if methods == "help":
        _show_methods()
        raise typer.Exit
    return methods


Methods = Annotated[
    str,
    typer.Option(
        help="Methods and presets, comma-separated; `help` lists them.", is_eager=True, callback=_list_on_help
    ),
]


def compare(
    config: Annotated[str, typer.Argument(help="YAML file that all methods share.")],
    methods: Methods = "sft,msft",
    seeds: Seeds = "",
    control: Annotated[str, typer.Option(help="Method that the others are measured against; default: sft.")] = "",
    parallel: Parallel = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compare methods and seeds at one budget, with tables, CSV files and a plot."""
    from tasks.report.terminal import log_to_terminal

    give = log_to_terminal(quiet=quiet, as_json=as_json).give
    chosen, numbers = _methods_of(methods, control), _seeds_of(seeds)
    from tasks.config.loading import load_config

    loaded = load_config(config, overrides or [], is_shared=True)
    from flows.compare import compare_methods
    from tasks.comparison.report import read_report
    from tasks.runtime.prefect_server import run_flow

    done = run_flow(lambda: compare_methods(loaded, chosen, numbers, control, parallel=parallel), loaded.output_root)
    give(read_report(done.directory))


def sweep(
    config: Annotated[str, typer.Argument(help="YAML file that all searches share.")],
    over: Annotated[
        list[str],
        typer.Option(
            help="Axis of the grid. search.compute_budget_epochs=1,2,3, or any other value of the configuration; "
            "num_sub_datasets=5,10: the first k; rows=900,1800: most training rows per sub-dataset; "
            "split=none,NAME:COLUMN: one sub-dataset per category of a column."
        ),
    ],
    methods: Methods = "sft,msft",
    seeds: Seeds = "",
    parallel: Parallel = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Search over a grid of settings, with plots of peaks, their shifts after an exclusion, accuracy and FLOPs."""
    from tasks.report.terminal import log_to_terminal

    give = log_to_terminal(quiet=quiet, as_json=as_json).give
    chosen, numbers = _methods_of(methods), _seeds_of(seeds)
    from tasks.config.loading import load_config

    loaded = load_config(config, overrides or [], is_shared=True)
    from flows.compare import compare_methods
    from tasks.comparison.grid import read_axis
    from tasks.comparison.report import read_report
    from tasks.runtime.prefect_server import run_flow

    axes = tuple(read_axis(text) for text in over)
    done = run_flow(lambda: compare_methods(loaded, chosen, numbers, axes=axes, parallel=parallel), loaded.output_root)
    give(read_report(done.directory))


def methods(as_json: Json = False) -> None:
    """List the methods and presets for `search.method` and `msft compare --methods`."""
    from tasks.report.terminal import log_to_terminal

    log_to_terminal(as_json=as_json).give(_show_methods())


def _show_methods() -> list[dict[str, str]]:
    """Tell each method with its summary; return them as values."""
    from tasks.config.presets import PRESETS
    from tasks.report.messages import tell

    for name, preset in PRESETS.items():
        tell(f"{name:<18}{preset.summary}")
    tell("Settings of each: tasks/config/README.md")
    return [{"name": name, "method": one.method, "summary": one.summary} for name, one in PRESETS.items()]


def _methods_of(text: str, control: str = "") -> tuple[str, ...]:
    """Return the names of `a,b,c`, and refuse an unknown one before heavy modules are imported."""
    from tasks.config.presets import check_methods

    names = _split(text)
    check_methods([*names, *_split(control)])
    return names


def _seeds_of(text: str) -> tuple[int, ...]:
    wrong = [item for item in _split(text) if not item.isdecimal()]
    if wrong:
        raise ConfigError("--seeds", [f"got {item!r}; expected whole numbers" for item in wrong])
    return tuple(int(item) for item in _split(text))


def _split(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())
