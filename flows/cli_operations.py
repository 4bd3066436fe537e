"""The commands deploy, follow, doctor and profile: what searches run on, and what takes their time."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import typer

from flows.cli_options import Config, Json, OutputRoot, Overrides, Quiet
from tasks.config.loading import load_config
from tasks.report.messages import tell
from tasks.report.terminal import log_to_terminal


def deploy(
    names: Annotated[list[str] | None, typer.Argument(help="Deployments of the file; default: all.")] = None,
    file: Annotated[str | None, typer.Option(help="The prefect.yaml; default: the package's.")] = None,
    directory: Annotated[
        str | None, typer.Option(envvar="MSFT_HOME", help="Working directory of runs in a process pool; default: here.")
    ] = None,
    image: Annotated[str | None, typer.Option(envvar="MSFT_IMAGE", help="Container image of runs.")] = None,
    lost_after_s: Annotated[
        int | None, typer.Option(min=45, help="Seconds without a heartbeat before a run is given to another worker.")
    ] = None,
    schedule: Annotated[
        Literal["off", "queue", "skip"] | None,
        typer.Option(
            help="Turn schedules off, or on with overlapping runs queued or skipped. Default: unchanged; new ones off."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Register deployments, and the automation for lost runs, with the server at PREFECT_API_URL."""
    give = log_to_terminal(as_json=as_json).give
    from tasks.commands.deploy import LOST_AFTER_S
    from tasks.commands.deploy import deploy as register

    placeholders = {"MSFT_HOME": os.path.abspath(directory or "."), "MSFT_IMAGE": image}
    lines = []
    for line in register(names or [], file, placeholders, lost_after_s or LOST_AFTER_S, schedule):
        tell(line)  # each when it is done
        lines.append(line)
    give({"lines": lines})


def follow(
    search: Annotated[
        str, typer.Argument(help="YAML file of the search, with the same --set; or its directory or name.")
    ],
    rank: Annotated[
        int,
        typer.Option(
            min=0,
            envvar=["MSFT_MACHINE_RANK", "SLURM_NODEID", "JOB_COMPLETION_INDEX", "SKYPILOT_NODE_RANK"],
            help="Number of this machine: 1 to training.machines - 1.",
        ),
    ],
    overrides: Overrides = None,
    output_root: OutputRoot = "searches",
    quiet: Quiet = False,
) -> None:
    """Train on this machine, too, for a search with training.machines above 1; ends with the search.

    The search itself runs on machine 0; all machines share its folder, and each starts this command once.
    """
    log_to_terminal(quiet=quiet)
    from tasks.commands.follow import follow_search

    follow_search(search, rank, overrides or [], output_root)


def doctor(
    config: Annotated[
        str | None, typer.Argument(help="YAML file of a search; its folders and servers are checked.")
    ] = None,
    overrides: Overrides = None,
    output_root: OutputRoot = "searches",
    tracking_uri: Annotated[
        str | None, typer.Option(envvar="MLFLOW_TRACKING_URI", help="MLflow to check, without a CONFIG.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check Python, packages, torch, devices, disk, servers and leftovers of searches, with a fix for each problem.

    Exits with 1 if a check fails; warnings do not count.
    """
    give = log_to_terminal(as_json=as_json).give
    loaded = load_config(config, overrides or []) if config is not None else None
    from tasks.commands.doctor import diagnose, show_checks

    checks = diagnose(loaded, output_root, tracking_uri)
    show_checks(checks)
    give([check.model_dump() for check in checks])
    if any(check.verdict == "fail" for check in checks):
        raise typer.Exit(1)


def profile(config: Config, overrides: Overrides = None, as_json: Json = False) -> None:
    """Run a new search, and show where its wall time goes and what it counts: starts, calls, checkpoints, requests.

    It runs in a temporary folder, which is removed, or in that of --set output_root=…
    """
    give = log_to_terminal(as_json=as_json).give
    from tasks.commands.profile import profile_search, show_profile

    measured = profile_search(config, overrides or [])
    show_profile(measured)
    give(measured.model_dump())
