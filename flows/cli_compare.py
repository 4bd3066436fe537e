"""Commands for several searches: compare, sweep and methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli_options import Json, Overrides, Parallel, Quiet, Seeds
from tasks.config.loading import load_config
from tasks.config.presets import PRESETS, check_methods
from tasks.errors import ConfigError
from tasks.report.messages import tell
from tasks.report.terminal import log_to_terminal

if TYPE_CHECKING:
    from tasks.contracts import SearchRef


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
    _run(config, overrides, methods, seeds, control, [], parallel, quiet, as_json)


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
    _run(config, overrides, methods, seeds, "", over, parallel, quiet, as_json)


def _run(
    config: str,
    overrides: list[str] | None,
    methods: str,
    seeds: str,
    control: str,
    over: list[str],
    parallel: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    give = log_to_terminal(quiet=quiet, as_json=as_json).give
    chosen, numbers = _split(methods), _seeds_of(seeds)
    check_methods([*chosen, *_split(control)])  # before heavy modules are imported
    loaded = load_config(config, overrides or [], is_shared=True)
    from tasks.comparison.grid import read_axis
    from tasks.runtime.prefect_server import run_flow

    axes = tuple(read_axis(text) for text in over)

    def run() -> SearchRef:
        from flows.compare import compare_methods

        return compare_methods(loaded, chosen, numbers, control, axes, parallel)

    done = run_flow(run, loaded.output_root, "flows.compare")
    from tasks.comparison.report import read_report

    give(read_report(done.directory))


def methods(as_json: Json = False) -> None:
    """List the methods and presets for `search.method` and `msft compare --methods`."""
    log_to_terminal(as_json=as_json).give(_show_methods())


def _show_methods() -> list[dict[str, str]]:
    """Tell each method with its summary; return them as values."""
    for name, preset in PRESETS.items():
        tell(f"{name:<18}{preset.summary}")
    tell("Settings of each: tasks/config/README.md")
    return [{"name": name, "method": one.method, "summary": one.summary} for name, one in PRESETS.items()]


def _seeds_of(text: str) -> tuple[int, ...]:
    wrong = [item for item in _split(text) if not item.isdecimal()]
    if wrong:
        raise ConfigError("--seeds", [f"got {item!r}; expected whole numbers" for item in wrong])
    return tuple(int(item) for item in _split(text))


def _split(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())
