"""Hours and money of planned work: at a stated speed, or at the one that searches of this model reached here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.algorithm.costs import Work as Cost
from tasks.config.schema import SearchConfig
from tasks.config.strict_yaml import read_yaml
from tasks.contracts import Value
from tasks.record.events import rounds_of, start_of
from tasks.record.journal import read_events
from tasks.record.plan import Plan, Work

COURSES = ("least", "expected", "most")


class Speed(Value):
    """FLOPs a second of one device as the ledger counts them, and where that is known from."""

    training_flops_per_s: float
    evaluation_flops_per_s: float
    source: str


class Price(Value):
    """Hours on the clock, GPU-hours and money of one course; money in the unit that the GPU-hour was given in."""

    hours: float
    gpu_hours: float
    money: float | None


def price_plan(
    plan: Plan, speed: Speed, num_devices: int, price_per_gpu_hour: float | None
) -> dict[str, Price]:
    """Return the price of each course of a plan."""
    courses: dict[str, Work] = {course: getattr(plan, course) for course in COURSES}
    return {name: price(work, speed, num_devices, price_per_gpu_hour) for name, work in courses.items()}


def price(work: Work, speed: Speed, num_devices: int, price_per_gpu_hour: float | None) -> Price:
    """Return hours and money of a course; training runs on all devices, scoring on one, and those that wait are paid.

    Starting processes, writing checkpoints and preparing data are not in it.
    """
    training_s = work.training_flops / (speed.training_flops_per_s * num_devices)
    scoring_s = (work.evaluation_flops + work.test_flops) / speed.evaluation_flops_per_s
    hours = (training_s + scoring_s) / 3600
    gpu_hours = hours * num_devices
    money = gpu_hours * price_per_gpu_hour if price_per_gpu_hour is not None else None
    return Price(hours=hours, gpu_hours=gpu_hours, money=money)


def num_devices_of(config: SearchConfig) -> int:
    """Return on how many devices the search trains."""
    launched_by = config.training.accelerate_config
    if launched_by is None:
        return config.training.num_processes
    return int((read_yaml(config.resolve(launched_by).read_text()) or {}).get("num_processes", 1))


def stated_speed(flops_per_s: float) -> Speed:
    """Return the speed that a user states."""
    return Speed(
        training_flops_per_s=flops_per_s, evaluation_flops_per_s=flops_per_s, source="as --flops-per-s says"
    )


def measured_speed(output_root: str, model_sha256: str) -> Speed | None:
    """Return the speed that the newest search of this base model under `output_root` reached; None without one."""
    journals = sorted(Path(output_root).glob("*/journal.jsonl"), key=lambda path: path.stat().st_mtime)
    for journal in reversed(journals):
        events = read_events(str(journal.parent))
        if events and start_of(events).content["base model"] == model_sha256:
            trained = [interval for decided in rounds_of(events) for interval in decided.intervals]
            scored = [decided.evaluation for decided in rounds_of(events)]
            if _seconds(trained) > 0 and _seconds(scored) > 0:
                num_devices = start_of(events).config["training"]["num_processes"]
                return Speed(
                    training_flops_per_s=_flops(trained) / _seconds(trained) / num_devices,
                    evaluation_flops_per_s=_flops(scored) / _seconds(scored),
                    source=f"as measured in {journal.parent}",
                )
    return None


def _seconds(parts: Sequence[Cost]) -> float:
    return sum((part.seconds for part in parts), 0.0)


def _flops(parts: Sequence[Cost]) -> float:
    return sum((part.flops for part in parts), 0.0)
