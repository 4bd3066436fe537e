"""Which rows make up each optimizer step: a pure function of (seed, round, sub-dataset, position)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from tasks.contracts import Mixture, SplitRef, SubDatasetDraws
from tasks.data.randomness import random_state

T = TypeVar("T")


@dataclass(frozen=True)
class Draw:
    """One row of one sub-dataset; both are indices."""

    sub_dataset: int
    row: int


class RowStore:
    """The tokenised rows of one split, memory-mapped."""

    def __init__(self, split: SplitRef) -> None:
        import datasets

        table = datasets.load_from_disk(str(Path(split.directory))).data.table.combine_chunks()
        ids, flags = table.column("input_ids").chunk(0), table.column("supervised").chunk(0)
        self._offsets: npt.NDArray[np.int64] = np.asarray(ids.offsets)
        self._ids: npt.NDArray[np.int32] = np.asarray(ids.values)
        self._supervised: npt.NDArray[np.int8] = np.asarray(flags.values)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def length(self, row: int) -> int:
        """Return the row's number of tokens."""
        return int(self._offsets[row + 1] - self._offsets[row])

    def row(self, row: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int8]]:
        """Return the row's token ids and supervised flags, both of shape (tokens,)."""
        span = slice(self._offsets[row], self._offsets[row + 1])
        return self._ids[span], self._supervised[span]


def plan_steps(mixture: Mixture, seed: int, batch_size: int) -> list[list[Draw]]:
    """Return the rows of every optimizer step of a roll-out.

    Each epoch draws `rows_per_epoch` rows from each sub-dataset and shuffles them together. A sub-dataset's rows
    come from an endless stream of permutations, one a pass; the cursor says where on it the roll-out starts, so
    that on the accepted path every row is seen equally often, whatever was rolled back.
    """
    rows: list[Draw] = []
    epoch = 0
    while len(rows) < mixture.num_rows:
        streams = [
            iter(stream(index, part, part.cursor + epoch * part.rows_per_epoch, part.rows_per_epoch, seed))
            for index, part in enumerate(mixture.draws)
        ]
        owners = [index for index, part in enumerate(mixture.draws) for _ in range(part.rows_per_epoch)]
        order = random_state(seed, "interleave", mixture.round, epoch).permutation(len(owners))
        # Only the owners are shuffled: each sub-dataset's rows keep the order of its stream, so that a cursor
        # inside an epoch says which rows were seen.
        rows.extend(next(streams[owners[position]]) for position in order)
        epoch += 1
    rows = rows[: mixture.num_rows]
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def stream(index: int, part: SubDatasetDraws, start: int, count: int, seed: int) -> list[Draw]:
    """Return `count` draws from position `start` of the stream of the mixture's sub-dataset `index`."""
    draws, num_rows = [], part.train.num_rows
    permutation: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)
    current = -1
    for position in range(start, start + count):
        if (number := position // num_rows) != current:
            current = number
            permutation = random_state(seed, "pass", part.name, number).permutation(num_rows)
        draws.append(Draw(index, int(permutation[position % num_rows])))
    return draws


def micro_batches(
    rows: Sequence[T], lengths: Sequence[int], size: int | None, *, rank: int, world: int, by_length: bool
) -> list[list[T]]:
    """Return this rank's share of one step, cut into micro-batches; as many on every rank, some maybe empty.

    With `by_length`, rows of like length meet in a micro-batch and are dealt to the ranks in turn, which saves
    padding and evens the ranks' work; the rows of the step, and so its gradient, stay the same.
    """
    order = sorted(range(len(rows)), key=lambda i: lengths[i]) if by_length else list(range(len(rows)))
    mine = [rows[i] for i in order[rank::world]]
    per_rank = -(-len(rows) // world)
    size = size or per_rank
    count = -(-per_rank // size)
    return [mine[i * size : (i + 1) * size] for i in range(count)]


def chain_hash(previous: str, rows: Sequence[Draw]) -> str:
    """Return the hash over all batches so far, given that of those before this one."""
    text = previous + ",".join(f"{draw.sub_dataset}:{draw.row}" for draw in rows)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
