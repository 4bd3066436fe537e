"""Events of a journal with defaults for what a test does not look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields as dataclass_fields
from dataclasses import replace
from typing import Any

from tasks.algorithm.curves import Curve, MetricPoint
from tasks.algorithm.state import Champion, CheckpointKey
from tasks.algorithm.strategy import Decision
from tasks.contracts import (
    ChampionResult,
    CheckpointScores,
    EvaluationCost,
    IntervalStats,
    Mixture,
    SplitRef,
    SubDatasetDraws,
    SubDatasetScore,
)
from tasks.record.events import ChampionCrowned, RoundDecided, SearchStarted
from tasks.record.rollout import LostTraining, Restart

FIRST = CheckpointKey(0, 10)
CONFIG = {
    "name": "made",
    "evaluation": {"selection": "accuracy"},
    "search": {"max_epochs": 4.0, "protocol": "validation"},
    "training": {"num_processes": 1},
}


def started(names: Sequence[str] = ("a", "b"), **fields: Any) -> SearchStarted:
    """Return the first event of a search."""
    return SearchStarted.model_validate(
        {"search_id": "1234abcd", "sub_datasets": tuple(names), "config": CONFIG} | fields
    )


def decided(index: int, target: tuple[int, int], names: Sequence[str] = ("a", "b"), **fields: Any) -> RoundDecided:
    """Return a decided round that goes on from `target`, a round and a step.

    Args:
        fields: fields of its decision or, where that has no such field, of the event.
    """
    goal = CheckpointKey(*target)
    chosen = {field.name: fields[field.name] for field in dataclass_fields(Decision) if field.name in fields}
    decision = replace(Decision(goal, "as told"), **chosen)
    scores = {name: 0.1 * (place + 1) for place, name in enumerate(names)}
    return RoundDecided.model_validate(
        {
            "round": index,
            "method": "msft",
            "rule": "guarded",
            "sub_datasets": tuple(names),
            "active": tuple(names),
            "weights": None,
            "steps_per_epoch": 10.0,
            "curves": tuple(curve(name, [CheckpointKey(0, 0)], [score]) for name, score in scores.items()),
            "examples": 100,
            "checkpoints": (),
            "intervals": (),
            "evaluation": EvaluationCost(),
            "restarts": (),
            "decision": decision,
            "scores_at_target": scores,
            "champion": Champion(FIRST, 0.5),
            "stop_reason": "",
            "mixture": None,
        }
        | {name: value for name, value in fields.items() if name not in chosen}
    )


def crowned(key: CheckpointKey = FIRST, scores: Sequence[SubDatasetScore] = (), **fields: Any) -> ChampionCrowned:
    """Return the end of a search, with the same scores on validation and test."""
    held = CheckpointScores(key=key, sha256="", scores=tuple(scores), cost=EvaluationCost())
    result = {"key": key, "directory": "champion", "model_version": "1", "validation": held, "test": held}
    return ChampionCrowned(champion=ChampionResult.model_validate(result | fields))


def curve(
    name: str, keys: Sequence[CheckpointKey], scores: Sequence[float], num_examples: int = 100, rows: bool = False
) -> Curve:
    """Return a curve whose losses are the scores' absolute values; with `rows`, the first rows are the right ones."""
    points = []
    for key, score in zip(keys, scores, strict=True):
        right = round(score * num_examples) if rows else 0
        correct = "1" * right + "0" * (num_examples - right) if rows else ""
        points.append(MetricPoint(key, score, abs(score), num_examples, correct))
    return Curve(name, tuple(points))


def interval(key: CheckpointKey, **costs: float) -> IntervalStats:
    """Return what was trained before a checkpoint."""
    defaults = {"num_tokens": 1000, "num_completion_tokens": 500, "num_examples": 100, "flops": 1e9}
    rest = {"seconds": 2.0, "learning_rate": 1e-5, "losses": {}, "batch_hash": ""}
    return IntervalStats.model_validate({"key": key} | defaults | rest | costs)


def restart(**lost: float) -> Restart:
    """Return a restart from step 4, reached step 7."""
    nothing = {"num_tokens": 0, "num_examples": 0, "flops": 0.0, "seconds": 0.0}
    return Restart(reached_step=7, resumed_step=4, reached_at_ms=0, lost=LostTraining.model_validate(nothing | lost))


def mixture(index: int, shares: Mapping[str, float], full_epoch_rows: int, num_rows: int = 100) -> Mixture:
    """Return a mixture of two epochs; each sub-dataset has `num_rows` rows."""
    train = SplitRef(directory="", num_rows=num_rows, num_tokens=10 * num_rows, sha256="5ha" * 20)
    return Mixture(
        round=index,
        draws=tuple(SubDatasetDraws(name=name, train=train, rows_per_epoch=num_rows, cursor=0) for name in shares),
        epoch_rows=num_rows * len(shares),
        full_epoch_rows=full_epoch_rows,
        epochs=2.0,
        num_rows=2 * num_rows * len(shares),
        num_steps=20,
        evaluation_offsets=(10, 20),
        example_shares=dict(shares),
        token_shares=dict(shares),
    )
