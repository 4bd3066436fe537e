"""What a person sees of a plan, before the search and after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from tasks.planning.pricing import Price, Speed
from tasks.record.plan import BOUNDS, Comparison, Plan
from tasks.report.console import console, print_table

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
    """Print a plan; `prices` are by course, and empty where no speed is known."""
    trained = f", of which {plan.num_trained:,} are trained" if plan.num_trained < plan.num_parameters else ""
    console.print(f"model: {plan.num_parameters:,} parameters{trained}; {plan.num_sub_datasets} sub-datasets")
    table = _table("", *BOUNDS)
    for field, label in _QUANTITIES.items():
        table.add_row(label, *(_shown(field, getattr(getattr(plan, course), field)) for course in BOUNDS))
    for field, label, digits in (("hours", "hours", 3), ("gpu_hours", "GPU-hours", 3), ("money", "price", 2)):
        values = [getattr(prices[course], field) for course in BOUNDS if course in prices]
        if values and values[0] is not None:
            table.add_row(label, *(f"{value:,.{digits}f}" for value in values))
    print_table(table)
    if speed is None:
        console.print(
            "hours: not known; state --flops-per-s (of one device), or run a search of this model here"
        )
        return
    console.print(
        f"hours at {speed.training_flops_per_s:.3g} FLOP/s in training and {speed.evaluation_flops_per_s:.3g} in "
        f"scoring, {escape(speed.source)}; without start-up and data preparation"
    )


def show_plan_and_actual(comparisons: Sequence[Comparison]) -> None:
    """Print what a search cost beside what it was to cost; nothing for one that began without a plan."""
    if not comparisons:
        return
    table = _table("plan and actual", *BOUNDS, "actual")
    for cells in plan_and_actual(comparisons):
        table.add_row(*cells)
    print_table(table)


def plan_and_actual(
    comparisons: Sequence[Comparison], flops: Callable[[float], str] = "{:.3g}".format
) -> tuple[tuple[str, ...], ...]:
    """Return rows of texts: a quantity, its least, as expected and most by the plan, and what it came to."""
    rows = []
    for row in comparisons:
        values = (row.least, row.expected, row.most, row.actual)
        texts = [flops(value) if "flops" in row.quantity else _shown(row.quantity, value) for value in values]
        rows.append((_QUANTITIES[row.quantity], *texts))
    return tuple(rows)


def _table(first: str, *headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _shown(quantity: str, value: float) -> str:
    if "flops" in quantity:
        return f"{value:.3g}"
    if "bytes" in quantity:
        return size_text(value)
    return f"{value:,.2f}" if quantity == "num_epochs" else f"{value:,.0f}"


def size_text(num_bytes: float) -> str:
    """Return a size in MB or GB."""
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"


def plan_values(plan: Plan, speed: Speed | None, prices: Mapping[str, Price]) -> dict[str, Any]:
    """Return a plan for machines."""
    return {
        "plan": plan.model_dump(),
        "speed": speed.model_dump() if speed is not None else None,
        "prices": {course: price.model_dump() for course, price in prices.items()},
    }
