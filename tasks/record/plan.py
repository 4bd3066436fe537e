"""The plan that a search starts with, in its directory, and its comparison with the actual cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field

from tasks.algorithm.answer_shares import SplitFacts
from tasks.algorithm.costs import total_by_kind
from tasks.contracts import EvaluationCost, Value
from tasks.record.events import RoundDecided, Soup
from tasks.record.paths import PLAN

Bound = Literal["least", "expected", "most"]
BOUNDS: tuple[Bound, ...] = get_args(Bound)


class SearchCost(Value):
    """Cost of one search. The quantities are those of the ledger; scoring the test splits is separate.

    Attributes:
        num_epochs: trained full-mixture epochs, discarded ones included.
        num_checkpoints: published and scored checkpoints.
        bytes_written: size of all checkpoints.
        disk_bytes: peak disk usage, with the exported champion and its copy in MLflow.
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
    """Cost of a search before it runs.

    `least` and `most` are the bounds of each quantity on its own. `num_parameters` includes adapters. `facts` are by
    sub-dataset and split, and `data_warnings` in words; a plan of an earlier version has none. `hidden_states_bytes`
    are those of the outputs of frozen layers, if they are kept.
    """

    num_sub_datasets: int
    num_parameters: int
    num_trained: int
    least: SearchCost
    expected: SearchCost
    most: SearchCost
    facts: dict[str, dict[str, SplitFacts]] = Field(default_factory=dict)
    data_warnings: tuple[str, ...] = ()
    hidden_states_bytes: int = 0
    keeps_hidden_states: bool = False


class Comparison(Value):
    """One quantity of a plan next to its actual value."""

    quantity: str
    least: float
    expected: float
    most: float
    actual: float


def read_plan(directory: str) -> Plan | None:
    """Return the plan that the search started with; None if it started without one."""
    path = Path(directory, PLAN)
    return Plan.model_validate_json(path.read_text()) if path.is_file() else None


def compare_with_plan(plan: Plan, rounds: Sequence[RoundDecided], soup: Soup | None = None) -> list[Comparison]:
    """Return each quantity of the plan next to the sum over these rounds and the averages scored after them.

    Repeated work is not counted.
    """
    averages = soup.cost if soup is not None else EvaluationCost()
    totals = total_by_kind(line for decided in rounds for line in decided.ledger)
    trained = [totals[kind] for kind in ("accepted", "discarded")]
    actual = {
        "num_rounds": len(rounds),
        "num_steps": sum(r.intervals[-1].key.step - min(p.checkpoint.step for p in r.curves[0].points) for r in rounds),
        "num_examples": sum(line.num_examples for line in trained),
        "num_checkpoints": 1 + sum(len(decided.intervals) for decided in rounds),
        "training_tokens": sum(line.num_tokens for line in trained),
        "training_flops": sum(line.flops for line in trained),
        "evaluation_tokens": totals["evaluation"].num_tokens + averages.num_tokens,
        "evaluation_flops": totals["evaluation"].flops + averages.flops,
        "bytes_written": sum(line.num_bytes for line in trained),
    }
    return [
        Comparison(quantity=name, actual=value, **{bound: getattr(getattr(plan, bound), name) for bound in BOUNDS})
        for name, value in actual.items()
    ]
