"""Commands for several searches: compare, sweep and methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli_options import AtOnce, Json, On, Overrides, Parallel, Quiet, Seeds
from tasks.config.loading import load_config
from tasks.config.presets import PRESETS, check_methods
from tasks.errors import ConfigError
from tasks.redaction import without_password
from tasks.report.messages import tell
from tasks.report.terminal import log_to_terminal

if TYPE_CHECKING:
    from tasks.config.schema import SearchConfig
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
    on: On = "",
    at_once: AtOnce = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compare methods and seeds at one budget, with tables, CSV files and a plot."""
    _run(config, overrides, methods, seeds, control, [], (parallel, on, at_once), quiet, as_json)


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
    on: On = "",
    at_once: AtOnce = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Search over a grid of settings, with plots of peaks, their shifts after an exclusion, accuracy and FLOPs."""
    _run(config, overrides, methods, seeds, "", over, (parallel, on, at_once), quiet, as_json)


def _run(
    config: str,
    overrides: list[str] | None,
    methods: str,
    seeds: str,
    control: str,
    over: list[str],
    where: tuple[int | None, str, int | None],
    quiet: bool,
    as_json: bool,
) -> None:
    give = log_to_terminal(quiet=quiet, as_json=as_json).give
    chosen, numbers = _split(methods), _seeds_of(seeds)
    check_methods([*chosen, *_split(control)])  # before heavy modules are imported
    loaded = load_config(config, overrides or [], is_shared=True)
    _check_place(loaded, *where)
    from tasks.comparison.grid import read_axis
    from tasks.comparison.parallel import Place
    from tasks.runtime.prefect_server import run_flow

    axes = tuple(read_axis(text) for text in over)
    place = Place(parallel=where[0], deployment=where[1], at_once=where[2])

    def run() -> SearchRef:
        from flows.compare import compare_methods

        return compare_methods(loaded, chosen, numbers, control, axes, place)

    done = run_flow(run, loaded.output_root, "flows.compare")
    from tasks.comparison.report import read_report

    give(read_report(done.directory))


def _check_place(config: SearchConfig, parallel: int | None, on: str, at_once: int | None) -> None:
    """Raise ConfigError for options that do not go together, or a store that other machines cannot share."""
    if at_once is not None and not on:
        raise ConfigError("--at-once", ["takes effect only with --on; on this machine: --parallel"])
    if parallel is not None and on:
        raise ConfigError("--parallel", ["takes no effect with --on; how many are placed at a time: --at-once"])
    uri = config.tracking.uri or "sqlite"
    if on and not uri.startswith(("http:", "https:")):
        told = "a file of this machine" if uri.startswith("sqlite") else "a database, whose password has no place here"
        raise ConfigError("--on", [f"got tracking.uri {told}; expected an MLflow server that all machines reach"])
    if on and without_password(uri) != uri:
        fix = "give it as MLFLOW_TRACKING_PASSWORD in the environment of this command and of the workers"
        raise ConfigError("--on", [f"got a password in tracking.uri, which workers would have to read; {fix}"])


def methods(as_json: Json = False) -> None:
    """List the methods and presets for `search.method` and `msft compare --methods`."""
    log_to_terminal(as_json=as_json).give(_show_methods())


def _show_methods() -> list[dict[str, str]]:
    """Tell each method with its summary; return them as values."""
    for name, preset in PRESETS.items():
        tell(f"{name:<19}{preset.summary}")
    tell("Settings of each: tasks/config/README.md")
    return [{"name": name, "method": one.method, "summary": one.summary} for name, one in PRESETS.items()]


def _seeds_of(text: str) -> tuple[int, ...]:
    wrong = [item for item in _split(text) if not item.isdecimal()]
    if wrong:
        raise ConfigError("--seeds", [f"got {item!r}; expected whole numbers" for item in wrong])
    return tuple(int(item) for item in _split(text))


def _split(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())
