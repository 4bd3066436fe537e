"""Carve a split out of the training rows, and sample a split, by the seed."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.data.examples import Example
from tasks.data.leaks import conversations
from tasks.data.randomness import random_state
from tasks.errors import DataError


def carve_split(
    train: Sequence[Example], count: int, name: str, split: str, seed: int
) -> tuple[list[Example], list[Example]]:
    """Return (rest, carved). Rows of one prompt or one conversation stay together, so that none is in both."""
    together = conversations(train)
    carved: set[int] = set()
    for position in random_state(seed, "carve", name, split).permutation(len(together)):
        if len(carved) >= count:
            break
        carved.update(together[position])
    if len(carved) >= len(train):
        raise DataError(
            name,
            f"splits.{split}",
            got=f"{len(train)} train rows, {count} to carve",
            expected="rows left to train on",
            fix=f"carve fewer rows, or name a file in splits.{split}",
        )
    rest = [example for index, example in enumerate(train) if index not in carved]
    return rest, [train[index] for index in sorted(carved)]


def sample_rows(examples: list[Example], limit: int | None, key: str, seed: int) -> list[Example]:
    if limit is None or len(examples) <= limit:
        return examples
    chosen = random_state(seed, "sample", key).permutation(len(examples))[:limit]
    return [examples[index] for index in sorted(chosen)]
