"""The plan of a search, before it runs and beside what it came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.planning.pricing import Price, Speed
from tasks.record.plan import BOUNDS, Comparison, Plan
from tasks.report import words
from tasks.report.messages import tell, tell_table
from tasks.report.table import Table, names, numbers

_QUANTITIES = {
    "num_rounds": "rounds",
    "num_epochs": "full-mixture epochs",
    "num_steps": "optimizer steps",
    "num_examples": "training examples",
    "num_checkpoints": "checkpoints scored",
    "training_tokens": "training tokens",
    "training_flops": "training FLOPs",
    "evaluation_tokens": "evaluation tokens",
    "evaluation_flops": "evaluation FLOPs",
    "test_flops": "FLOPs of the test scores",
    "bytes_written": "checkpoints written",
    "disk_bytes": "disk at its fullest",
}


def show_plan(plan: Plan, speed: Speed | None, prices: Mapping[str, Price]) -> None:
    """Tell a plan; `prices` are by course, and empty where no speed is known."""
    trained = f", of which {plan.num_trained:,} are trained" if plan.num_trained < plan.num_parameters else ""
    tell(f"model: {plan.num_parameters:,} parameters{trained}; {plan.num_sub_datasets} sub-datasets")
    rows = [
        (label, *(_shown(field, getattr(getattr(plan, course), field)) for course in BOUNDS))
        for field, label in _QUANTITIES.items()
    ]
    for field, label, digits in (("hours", "hours", 3), ("gpu_hours", "GPU-hours", 3), ("money", "price", 2)):
        values = [getattr(prices[course], field) for course in BOUNDS if course in prices]
        if values and values[0] is not None:
            rows.append((label, *(f"{value:,.{digits}f}" for value in values)))
    tell_table(Table((*names(""), *numbers(*BOUNDS)), rows))
    if speed is None:
        tell("hours: not known; state --flops-per-s (of one device), or run a search of this model here")
        return
    tell(
        f"hours at {speed.training_flops_per_s:.3g} FLOP/s in training and {speed.evaluation_flops_per_s:.3g} in "
        f"scoring, {speed.source}; without start-up and data preparation"
    )


def plan_table(comparisons: Sequence[Comparison]) -> Table:
    """Return a row for each quantity: its least, as expected and most by the plan, and what it came to."""
    rows = [
        (
            _QUANTITIES[row.quantity],
            *(_shown(row.quantity, value) for value in (row.least, row.expected, row.most, row.actual)),
        )
        for row in comparisons
    ]
    return Table((*names("plan and actual"), *numbers(*BOUNDS, "actual")), rows)


def _shown(quantity: str, value: float) -> str:
    if "flops" in quantity:
        return words.flops(value)
    if "bytes" in quantity:
        return words.size(value)
    return f"{value:,.2f}" if quantity == "num_epochs" else f"{value:,.0f}"


def plan_values(plan: Plan, speed: Speed | None, prices: Mapping[str, Price]) -> dict[str, Any]:
    """Return a plan for machines."""
    return {
        "plan": plan.model_dump(),
        "speed": speed.model_dump() if speed is not None else None,
        "prices": {course: price.model_dump() for course, price in prices.items()},
    }
