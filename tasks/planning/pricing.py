"""Hours and money of a plan, at a stated speed or at the measured speed of earlier searches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.algorithm.costs import Work
from tasks.config.schema import SearchConfig
from tasks.config.strict_yaml import read_yaml
from tasks.contracts import Value
from tasks.record.events import rounds_of, start_of
from tasks.record.journal import read_events
from tasks.record.paths import JOURNAL
from tasks.record.plan import BOUNDS, Plan, SearchCost


class Speed(Value):
    """FLOPs per second of one device, counted as in the ledger, and their source."""

    training_flops_per_s: float
    evaluation_flops_per_s: float
    source: str


class Price(Value):
    """Wall-clock hours, GPU-hours and money of a search; money in the currency of the price per GPU-hour."""

    hours: float
    gpu_hours: float
    money: float | None


def price_plan(plan: Plan, speed: Speed, num_devices: int, price_per_gpu_hour: float | None) -> dict[str, Price]:
    """Return the price of the least, the expected and the most of a plan."""
    return {bound: price(getattr(plan, bound), speed, num_devices, price_per_gpu_hour) for bound in BOUNDS}


def price(cost: SearchCost, speed: Speed, num_devices: int, price_per_gpu_hour: float | None) -> Price:
    """Return hours and money of a search. Training uses all devices, scoring uses one, and idle devices are paid.

    Without the time to start processes, write checkpoints and prepare data.
    """
    training_s = cost.training_flops / (speed.training_flops_per_s * num_devices)
    scoring_s = (cost.evaluation_flops + cost.test_flops) / speed.evaluation_flops_per_s
    hours = (training_s + scoring_s) / 3600
    gpu_hours = hours * num_devices
    money = gpu_hours * price_per_gpu_hour if price_per_gpu_hour is not None else None
    return Price(hours=hours, gpu_hours=gpu_hours, money=money)


def num_devices_of(config: SearchConfig) -> int:
    """Return the number of devices that the search trains on."""
    accelerate_config = config.training.accelerate_config
    if accelerate_config is None:
        return config.training.machines * config.training.num_processes
    return int((read_yaml(config.resolve(accelerate_config).read_text()) or {}).get("num_processes", 1))


def stated_speed(flops_per_s: float) -> Speed:
    """Return the speed of `--flops-per-s`."""
    return Speed(training_flops_per_s=flops_per_s, evaluation_flops_per_s=flops_per_s, source="as --flops-per-s says")


def measured_speed(output_root: str, model_sha256: str) -> Speed | None:
    """Return the speed of the newest search of this base model under `output_root`; None if there is none."""
    journals = sorted(Path(output_root).glob(f"*/{JOURNAL}"), key=lambda path: path.stat().st_mtime)
    for journal in reversed(journals):
        events = read_events(str(journal.parent))
        if not events or start_of(events).content["base model"] != model_sha256:
            continue
        trained = [interval for decided in rounds_of(events) for interval in decided.intervals]
        scored = [decided.evaluation for decided in rounds_of(events)]
        if _seconds(trained) > 0 and _seconds(scored) > 0:
            training = start_of(events).config["training"]
            num_devices = training["num_processes"] * training.get("machines", 1)
            return Speed(
                training_flops_per_s=_flops(trained) / _seconds(trained) / num_devices,
                evaluation_flops_per_s=_flops(scored) / _seconds(scored),
                source=f"as measured in {journal.parent}",
            )
    return None


def _seconds(parts: Sequence[Work]) -> float:
    return sum((part.seconds for part in parts), 0.0)


def _flops(parts: Sequence[Work]) -> float:
    return sum((part.flops for part in parts), 0.0)
