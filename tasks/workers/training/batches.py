"""The rows of each optimizer step: a pure function of (seed, round, sub-dataset, position)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tasks.config.identity import ONE_PASS_TOKENS
from tasks.contracts import Mixture, RolloutSpec, SplitRef, SubDatasetDraws
from tasks.data.randomness import random_state

T = TypeVar("T")
# Tokens of a forward pass on a CPU, which computes no faster with more of them. A step whose rows all fit, at their
# longest, has one pass: `config/identity.py` relies on it.
MAX_TOKENS = ONE_PASS_TOKENS
_PASS_TOKENS = 256  # cost of a pass beside that of its tokens


@dataclass(frozen=True)
class Draw:
    """One row of one sub-dataset; both are indices."""

    sub_dataset: int
    row: int


@dataclass
class Position:
    """A point between two optimizer steps of the accepted path.

    Attributes:
        step: number of steps before it.
        cursors: how far each sub-dataset's stream of rows has been drawn.
        batch_hash: chained hash of the rows that this roll-out has drawn.
    """

    step: int
    cursors: dict[str, int]
    batch_hash: str = ""

    @classmethod
    def at_start(cls, spec: RolloutSpec) -> Position:
        """Return the start of the roll-out; excluded sub-datasets keep their cursors."""
        before = spec.start.cursors if spec.start is not None else {}
        return cls(spec.first_step, {**before, **{part.name: part.cursor for part in spec.mixture.draws}})

    def advance(self, rows: Sequence[Draw], names: Sequence[str]) -> None:
        """Move past a step on `rows`, whose sub-datasets have these names."""
        self.step += 1
        for draw in rows:
            self.cursors[names[draw.sub_dataset]] += 1
        self.batch_hash = chain_hash(self.batch_hash, rows)

    def state(self) -> dict[str, Any]:
        """Return the entries of a checkpoint."""
        return {"step": self.step, "cursors": self.cursors, "batch_hash": self.batch_hash}


class RowStore:
    """The tokenized rows of one split, memory-mapped."""

    def __init__(self, split: SplitRef) -> None:
        import datasets

        table = datasets.load_from_disk(str(Path(split.directory))).data.table.combine_chunks()
        ids, loss_mask = table.column("input_ids").chunk(0), table.column("loss_mask").chunk(0)
        self._offsets: npt.NDArray[np.int64] = np.asarray(ids.offsets)
        self._ids: npt.NDArray[np.int32] = np.asarray(ids.values)
        self._loss_mask: npt.NDArray[np.int8] = np.asarray(loss_mask.values)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @property
    def longest_row(self) -> int:
        """The number of the row that has the most tokens."""
        return int(np.diff(self._offsets).argmax())

    def length(self, row: int) -> int:
        """Return the row's number of tokens."""
        return int(self._offsets[row + 1] - self._offsets[row])

    def row(self, row: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int8]]:
        """Return the row's token ids and loss mask, both of shape (tokens,)."""
        span = slice(self._offsets[row], self._offsets[row + 1])
        return self._ids[span], self._loss_mask[span]


@cache  # the splits of a search, whose every roll-out draws from them
def row_store(split: SplitRef) -> RowStore:
    """Return the rows of a split, which stay open in this process."""
    return RowStore(split)


def plan_steps(mixture: Mixture, seed: int, batch_size: int) -> list[list[Draw]]:
    """Return the rows of every optimizer step of a roll-out.

    Each epoch draws `rows_per_epoch` rows from each sub-dataset and shuffles them together. A sub-dataset's rows
    come from an endless stream of permutations, one a pass. The roll-out starts at the sub-dataset's cursor on it, so
    that every row is seen equally often on the accepted path, whatever was rolled back. A roll-out that is a part of
    one of the whole budget takes its part of that one's rows.
    """
    rows: list[Draw] = []
    epoch, is_part = 0, mixture.part_of is not None
    before = mixture.part_of[0] if mixture.part_of is not None else 0
    while len(rows) < before + mixture.num_rows:
        streams = [
            iter(stream(index, part, first + epoch * part.rows_per_epoch, part.rows_per_epoch, seed))
            for index, part in enumerate(mixture.draws)
            for first in [0 if is_part else part.cursor]
        ]
        owners = [index for index, part in enumerate(mixture.draws) for _ in range(part.rows_per_epoch)]
        order = random_state(seed, "interleave", seeding_round(mixture), epoch).permutation(len(owners))
        # Only the owners are shuffled: each sub-dataset's rows keep the order of its stream, so that a cursor inside
        # an epoch tells which rows were seen.
        rows.extend(next(streams[owners[position]]) for position in order)
        epoch += 1
    rows = rows[before : before + mixture.num_rows]
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def seeding_round(mixture: Mixture) -> int:
    """Return the round that random numbers depend on: the first where the roll-out is a part of a whole one."""
    return 0 if mixture.part_of is not None else mixture.round


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


@dataclass(frozen=True)
class PassLimit:
    """What a forward pass of one process may hold.

    Attributes:
        rows: None: as many as have `tokens` with their padding, at least one; fewer where that saves padding.
        packed: rows lie end to end, without padding.
    """

    rows: int | None
    tokens: int = MAX_TOKENS
    packed: bool = False


def micro_batches(
    rows: Sequence[T], lengths: Sequence[int], limit: PassLimit, *, rank: int, world: int, by_length: bool
) -> list[list[T]]:
    """Return this rank's share of one step in micro-batches; every rank has as many, some may be empty.

    With `by_length`, rows of similar length share a micro-batch and are dealt to the ranks in turn. That saves padding
    and evens the work of the ranks; the rows of the step, and so its gradient, stay the same.
    """
    order = sorted(range(len(rows)), key=lambda i: lengths[i]) if by_length else list(range(len(rows)))
    mine = [rows[i] for i in order[rank::world]]
    per_rank = -(-len(rows) // world)
    if limit.rows is not None:
        ends = [*range(limit.rows, per_rank, limit.rows), per_rank]
    else:  # cut for the longest row of any rank, so that all cut alike
        longest = [max(lengths[i] for i in order[k * world : (k + 1) * world]) for k in range(per_rank)]
        ends = _cut(longest, limit)
    return [mine[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)]


def _cut(lengths: Sequence[int], limit: PassLimit) -> list[int]:
    """Return the ends of the micro-batches with the fewest tokens, where each pass costs some too.

    Rows that all fit in one pass stay together.
    """

    def tokens(begin: int, end: int) -> int:
        return sum(lengths[begin:end]) if limit.packed else (end - begin) * max(lengths[begin:end])

    if not lengths or tokens(0, len(lengths)) <= limit.tokens:
        return [len(lengths)]
    costs, begins = [0], [0]  # of the first rows, and where their last micro-batch begins
    for end in range(1, len(lengths) + 1):
        cost, begin = min(
            (costs[begin] + tokens(begin, end) + _PASS_TOKENS, begin)
            for begin in range(end)
            if begin == end - 1 or tokens(begin, end) <= limit.tokens
        )
        costs.append(cost)
        begins.append(begin)
    ends = [len(lengths)]
    while begins[ends[0]] > 0:
        ends.insert(0, begins[ends[0]])
    return ends


def chain_hash(previous: str, rows: Sequence[Draw]) -> str:
    """Return the hash over all batches so far, given that of those before this one."""
    text = previous + ",".join(f"{draw.sub_dataset}:{draw.row}" for draw in rows)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
