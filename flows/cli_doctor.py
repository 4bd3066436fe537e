"""`msft doctor`: what would hinder a search, and what mends it."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli_options import Json, OutputRoot, Overrides


def doctor(
    config: Annotated[
        str | None, typer.Argument(help="A search's YAML file; its places are looked at.")
    ] = None,
    overrides: Overrides = None,
    output_root: OutputRoot = "searches",
    tracking_uri: Annotated[
        str | None, typer.Option(envvar="MLFLOW_TRACKING_URI", help="An MLflow to look at, without a CONFIG.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Look at Python, packages, torch and devices, disk, servers, and what searches left behind; name each fix.

    Ends with 1 where something fails; a warning hinders nothing.
    """
    from tasks.report.console import output

    output.choose(quiet=False, as_json=as_json)
    from tasks.commands.doctor import diagnose
    from tasks.commands.views import show_checks
    from tasks.config.loading import load_config

    loaded = load_config(config, overrides or []) if config is not None else None
    checks = diagnose(loaded, output_root, tracking_uri)
    show_checks(checks)
    output.give([check.model_dump() for check in checks])
    if any(check.verdict == "fail" for check in checks):
        raise typer.Exit(1)
