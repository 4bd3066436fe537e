"""The commands `msft compare` and `msft sweep`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from tasks.errors import ConfigError


def add_commands(app: typer.Typer, quieten: Callable[[], None]) -> None:
    """Add the commands to `app`; `quieten` is called before Prefect is imported."""
    _add_compare(app, quieten)
    _add_sweep(app, quieten)


def _add_compare(app: typer.Typer, quieten: Callable[[], None]) -> None:
    @app.command()
    def compare(
        config: Annotated[str, typer.Argument(help="The YAML file that all methods share.")],
        methods: Annotated[str, typer.Option(help="Names, such as sft,msft,msft_paper.")] = "sft,msft",
        seeds: Annotated[str, typer.Option(help="Such as 1,2,3; default: the file's.")] = "",
        control: Annotated[
            str, typer.Option(help="What the others are measured against; default: sft.")
        ] = "",
        parallel: Annotated[
            int | None, typer.Option(min=1, help="Searches at a time; default: one a GPU, one on a CPU.")
        ] = None,
        overrides: Annotated[
            list[str] | None, typer.Option("--set", help="Override one value: a.b=c.")
        ] = None,
    ) -> None:
        """Search with several methods and seeds at one budget; tables, CSV files and a plot say which is best."""
        from tasks.config_file import load_config

        loaded = load_config(config, overrides or [])
        chosen, numbers = split_list(methods), seeds_of(seeds)
        quieten()
        from flows.compare import compare_methods
        from tasks.prefect_server import run_flow

        run_flow(lambda: compare_methods(loaded, chosen, numbers, control, parallel), loaded.output_root)


def _add_sweep(app: typer.Typer, quieten: Callable[[], None]) -> None:
    @app.command()
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
        methods: Annotated[str, typer.Option(help="Names, such as sft,msft.")] = "sft,msft",
        seeds: Annotated[str, typer.Option(help="Such as 1,2,3; default: the file's.")] = "",
        parallel: Annotated[
            int | None, typer.Option(min=1, help="Searches at a time; default: one a GPU, one on a CPU.")
        ] = None,
        overrides: Annotated[
            list[str] | None, typer.Option("--set", help="Override one value: a.b=c.")
        ] = None,
    ) -> None:
        """Search over a grid of settings; plots show peaks, their shift after an exclusion, accuracy and FLOPs."""
        quieten()
        from tasks.config_file import load_config
        from tasks.sweep import read_axis

        loaded = load_config(config, overrides or [])
        axes = tuple(read_axis(text) for text in over)
        chosen, numbers = split_list(methods), seeds_of(seeds)
        from flows.sweep import sweep_grid
        from tasks.prefect_server import run_flow

        run_flow(lambda: sweep_grid(loaded, axes, chosen, numbers, parallel), loaded.output_root)


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
