"""What the rows of a tokenised split cost to train on and to score, counted from their lengths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from tasks.algorithm.costs import RowCost
from tasks.contracts import Metric, SplitRef

Ints = npt.NDArray[np.int64]
# Of the rows that have to be generated in full where a model is wrong; measured nowhere, half is a guess.
_SHARE_GENERATED = {"numeric": 0.5}


@dataclass(frozen=True)
class ScoringCost:
    """What scoring a split once costs: where no text has to be generated, probably, and where all have to be."""

    least: RowCost
    expected: RowCost
    most: RowCost


NOTHING = RowCost(0, 0, 0)


def training_cost(split: SplitRef) -> RowCost:
    """Return the sums over all rows of a split, each trained on once."""
    columns = _columns(split)
    return _gold_pass(columns)


def scoring_cost(split: SplitRef, metric: Metric, max_new_tokens: int) -> ScoringCost:
    """Return what scoring all rows of a split by `metric` costs at one checkpoint.

    One forward pass over prompt and completion gives the loss, and the answer where the model has it right. Choices
    of more than one token each take a pass; a text that may still be right is generated (`tasks/workers/scoring.py`).
    """
    columns = _columns(split)
    gold = _gold_pass(columns)
    if metric == "multiple_choice":
        gold = gold + _choice_passes(columns)
    if metric in ("multiple_choice", "loss"):
        return ScoringCost(gold, gold, gold)
    generated = _sums(_ints(columns["prompt_length"]) + max_new_tokens, max_new_tokens * split.num_rows)
    return ScoringCost(gold, gold + generated * _SHARE_GENERATED.get(metric, 0.0), gold + generated)


def _columns(split: SplitRef) -> Any:
    import datasets

    return datasets.load_from_disk(split.directory).data.table


def _gold_pass(columns: Any) -> RowCost:
    supervised = pc.sum(pc.list_flatten(columns["supervised"])).as_py()
    return _sums(_ints(columns["num_tokens"]), supervised)


def _choice_passes(columns: Any) -> RowCost:
    choices = columns["choice_ids"].combine_chunks()
    lengths = _ints(pc.list_value_length(pc.list_flatten(choices)))
    owners = _ints(pc.list_parent_indices(choices))
    longest = np.zeros(len(choices), dtype=np.int64)
    np.maximum.at(longest, owners, lengths)
    # Where every choice is one token, the first pass holds all their likelihoods.
    is_open = longest[owners] > 1
    tails = lengths[is_open]
    return _sums(_ints(columns["prompt_length"])[owners[is_open]] + tails, int(tails.sum()))


def _sums(lengths: Ints, num_head_positions: int) -> RowCost:
    return RowCost(int(lengths.sum()), int((lengths * lengths).sum()), num_head_positions)


def _ints(column: Any) -> Ints:
    return np.asarray(column, dtype=np.int64)
