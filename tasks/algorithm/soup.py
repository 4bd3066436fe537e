"""The greedy soup: an average of checkpoints, to which each is added if the validation score does not fall.

Source: Wortsman et al. 2022, arXiv 2203.05482, recipe 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.algorithm.state import CheckpointKey


@dataclass(frozen=True)
class Trial:
    """One checkpoint that was tried as a member of the average.

    Attributes:
        score: mean validation score of the average of this checkpoint and the members before it.
        is_member: whether it stays in the average; the first always does.
    """

    checkpoint: CheckpointKey
    score: float
    is_member: bool


def order_of(means: Mapping[CheckpointKey, float]) -> list[CheckpointKey]:
    """Return checkpoints in the order in which they are tried: the best first, the earliest of equal ones."""
    return sorted(means, key=lambda key: (-means[key], key))


def tried(trials: Sequence[Trial], checkpoint: CheckpointKey, score: float) -> tuple[Trial, ...]:
    """Return the trials with one more, which stays if its score is not below that of the average without it."""
    reached = [trial.score for trial in trials if trial.is_member]
    return (*trials, Trial(checkpoint, score, is_member=not reached or score >= reached[-1]))


def members_of(trials: Sequence[Trial]) -> tuple[CheckpointKey, ...]:
    """Return the checkpoints in the average, in the order in which they were added."""
    return tuple(trial.checkpoint for trial in trials if trial.is_member)
