"""`msft plan`: what a search will cost."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli_options import Json, Overrides, Quiet


def plan(
    config: Annotated[str, typer.Argument(help="The search's YAML file.")],
    overrides: Overrides = None,
    flops_per_s: Annotated[
        float | None,
        typer.Option(min=1.0, help="Speed of one device; default: as searches of this model reached here."),
    ] = None,
    price_per_gpu_hour: Annotated[
        float | None, typer.Option(min=0.0, help="Price of one device for an hour, in any unit.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Price a search before it runs: steps, tokens, FLOPs, checkpoints, disk, hours and money.

    What the search will decide is not known, so each quantity is given at its least, as expected with one exclusion a
    round, and at its most. The data is read and tokenised for it, as the search does first and then finds it done.
    """
    from tasks.report.console import output

    output.choose(quiet=quiet, as_json=as_json)
    from tasks.config.loading import load_config
    from tasks.planning.plan import make_plan
    from tasks.planning.pricing import measured_speed, num_devices_of, price_plan, stated_speed
    from tasks.preparation import prepare_inputs
    from tasks.report.plan_view import plan_values, show_plan

    loaded = load_config(config, overrides or [])
    inputs = prepare_inputs.fn(loaded)
    planned = make_plan(loaded, inputs)
    known = measured_speed(loaded.output_root, inputs.model.sha256)
    speed = stated_speed(flops_per_s) if flops_per_s is not None else known
    prices = price_plan(planned, speed, num_devices_of(loaded), price_per_gpu_hour) if speed else {}
    show_plan(planned, speed, prices)
    output.give(plan_values(planned, speed, prices))
