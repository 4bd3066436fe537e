"""The plan that a search begins with, and its comparison with the actual work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.algorithm.costs import total_by_kind
from tasks.contracts import Value
from tasks.record.events import RoundDecided

FILE = "plan.json"


class Work(Value):
    """What one course of a search costs; quantities as in the ledger, test scores apart.

    Attributes:
        num_epochs: full-mixture epochs trained, the discarded ones too.
        num_checkpoints: checkpoints published and scored.
        bytes_written: all checkpoints; disk_bytes: the most that lie on the disk at once, the exported champion
            and its copy in MLflow included.
    """

    num_rounds: int
    num_epochs: float
    num_steps: int
    num_examples: int
    num_checkpoints: int
    training_tokens: float
    training_flops: float
    evaluation_tokens: float
    evaluation_flops: float
    test_flops: float
    bytes_written: int
    disk_bytes: int


class Plan(Value):
    """A search's cost where its decisions fall well, probably, and where they fall badly.

    `least` and `most` are the extremes of each quantity on its own; `num_parameters` counts adapters too.
    """

    num_sub_datasets: int
    num_parameters: int
    num_trained: int
    least: Work
    expected: Work
    most: Work


class Comparison(Value):
    """One quantity of the plan beside what it came to."""

    quantity: str
    least: float
    expected: float
    most: float
    actual: float


def read_plan(directory: str) -> Plan | None:
    """Return the plan that the search began with; None where it began without one."""
    path = Path(directory, FILE)
    return Plan.model_validate_json(path.read_text()) if path.is_file() else None


def compare_with_plan(plan: Plan, rounds: Sequence[RoundDecided]) -> list[Comparison]:
    """Return the plan beside the work of these rounds; work that a restart repeated is not counted."""
    totals = total_by_kind(line for decided in rounds for line in decided.ledger)
    trained = [totals[kind] for kind in ("accepted", "discarded")]
    actual = {
        "num_rounds": len(rounds),
        "num_steps": sum(_num_steps(decided) for decided in rounds),
        "num_examples": sum(line.num_examples for line in trained),
        "num_checkpoints": 1 + sum(len(decided.intervals) for decided in rounds),
        "training_tokens": sum(line.num_tokens for line in trained),
        "training_flops": sum(line.flops for line in trained),
        "evaluation_tokens": totals["evaluation"].num_tokens,
        "evaluation_flops": totals["evaluation"].flops,
        "bytes_written": sum(line.num_bytes for line in trained),
    }
    return [
        Comparison(
            quantity=name,
            least=getattr(plan.least, name),
            expected=getattr(plan.expected, name),
            most=getattr(plan.most, name),
            actual=value,
        )
        for name, value in actual.items()
    ]


def _num_steps(decided: RoundDecided) -> int:
    first = min(point.checkpoint.step for point in decided.curves[0].points)
    return decided.intervals[-1].key.step - first
