"""What training on the rows of a split and scoring them take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from tasks.algorithm.costs import RowCost
from tasks.contracts import BY_CHOICES, Metric, SplitRef

Ints = npt.NDArray[np.int64]
# Share of the rows whose answer must be generated. Not measured: half is a guess.
_SHARE_GENERATED = {"numeric": 0.5}


@dataclass(frozen=True)
class ScoringCost:
    """Cost of scoring a split once: with no text generated, as expected, and with a text generated for each row."""

    least: RowCost
    expected: RowCost
    most: RowCost


NOTHING = RowCost(0, 0, 0)


def training_cost(split: SplitRef) -> RowCost:
    """Return the cost of training on each row of a split once."""
    columns = _columns(split)
    return _gold_pass(columns)


def scoring_cost(split: SplitRef, metric: Metric, max_new_tokens: int) -> ScoringCost:
    """Return the cost of scoring all rows of a split by `metric` at one checkpoint.

    One forward pass over prompt and completion gives the loss, and the answer if the model's is correct. Choices share
    it, and take less where they begin alike; answers that may still be correct are generated (`workers/scoring.py`).
    """
    columns = _columns(split)
    gold = _gold_pass(columns)
    if metric in BY_CHOICES:
        gold = gold + _other_choices(columns)
    if metric in (*BY_CHOICES, "loss"):
        return ScoringCost(gold, gold, gold)
    generated = _sums(_ints(columns["prompt_length"]) + max_new_tokens, max_new_tokens * split.num_rows)
    return ScoringCost(gold, gold + generated * _SHARE_GENERATED.get(metric, 0.0), gold + generated)


def _columns(split: SplitRef) -> Any:
    import datasets

    return datasets.load_from_disk(split.directory).data.table


def _gold_pass(columns: Any) -> RowCost:
    num_labels = pc.sum(pc.list_flatten(columns["loss_mask"])).as_py()
    return _sums(_ints(columns["num_tokens"]), num_labels)


def _other_choices(columns: Any) -> RowCost:
    """Return what the choices beside the labelled one add to a row's pass: all but the last token of each."""
    choices = columns["choice_ids"].combine_chunks()
    lengths = _ints(pc.list_value_length(pc.list_flatten(choices)))
    owners = _ints(pc.list_parent_indices(choices))
    numbers = np.arange(len(owners)) - np.searchsorted(owners, owners)
    is_other = numbers != _ints(columns["gold"])[owners]
    prompts, tails = _ints(columns["prompt_length"])[owners[is_other]], lengths[is_other] - 1
    num_pairs = int(((prompts + tails) ** 2 - prompts**2).sum())
    return RowCost(int(tails.sum()), num_pairs, int(tails.sum()))


def _sums(lengths: Ints, num_head_positions: int) -> RowCost:
    return RowCost(int(lengths.sum()), int((lengths * lengths).sum()), num_head_positions)


def _ints(column: Any) -> Ints:
    return np.asarray(column, dtype=np.int64)
