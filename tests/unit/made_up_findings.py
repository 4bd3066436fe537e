"""Finished searches made up of a few numbers, as a comparison or sweep finds them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.comparison.grid import Arm
from tasks.comparison.runs import Cost, Finding
from tasks.config.schema import SearchConfig
from tasks.contracts import SubDatasetScore

CONFIG: dict[str, Any] = {
    "name": "tiny",
    "model": {"source": "somewhere"},
    "mixture": {
        "sub_datasets": [
            {"name": "max", "synthetic": {"skill": "max"}},
            {"name": "roman", "synthetic": {"skill": "roman"}},
        ]
    },
    "search": {"max_epochs": 4, "min_delta": 0.02},
    "training": {"device": "cpu"},
}


def config_of(**changes: Any) -> SearchConfig:
    return SearchConfig.model_validate(CONFIG | changes)


def arm_of(method: str, seed: int, point: dict[str, str] | None = None) -> Arm:
    return Arm(method=method, seed=seed, point=point or {}, config=config_of(seed=seed, name=f"tiny-{method}"))


def finding_of(
    method: str, seed: int, rates: dict[str, float], flops: float = 1e12, point: dict[str, str] | None = None
) -> Finding:
    """Return a search whose champion is right in a share `rates` of 100 test rows; both are drawn by the seed."""
    rng = np.random.default_rng(seed)
    scores = []
    for name, rate in rates.items():
        correct = "".join("1" if rank < 100 * rate else "0" for rank in rng.permutation(100))
        accuracy = correct.count("1") / 100
        scores.append(SubDatasetScore(sub_dataset=name, accuracy=accuracy, loss=1.0, num_examples=100, correct=correct))
    return Finding(
        arm=arm_of(method, seed, point),
        directory=f"searches/tiny-{method}-{seed}",
        test=tuple(scores),
        test_hashes={name: f"{name}-{seed}" for name in rates},
        cost=Cost(train_tokens=1000, discarded_tokens=200, evaluation_tokens=300, flops=flops, seconds=60),
        rounds=(),
        crowned_at="2026-01-01T00:00:00Z",
    )
