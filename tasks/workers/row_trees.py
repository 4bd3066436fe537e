"""The trees of tokenized rows: a prompt, and the texts of it that scoring asks for."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from tasks.contracts import BY_CHOICES
from tasks.workers.forward import LogitsAt
from tasks.workers.trees import Query, Tree, grow, keeps_texts_apart

# The text that a row is labelled with, beside its choices 0, 1, …
GOLD = -1
# Settings of models that attend to so many tokens before each only. A mask over trees would take the place of theirs.
_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")


@cache  # one entry a sub-dataset; every checkpoint of a round is scored on the same rows
def read_rows(directory: str) -> list[dict[str, Any]]:
    """Return the rows of a tokenized split."""
    import datasets

    rows: list[dict[str, Any]] = datasets.load_from_disk(directory).to_list()
    return rows


def trees_of(number: int, directory: str, metric: str, widest: int) -> tuple[list[Tree], list[Tree]]:
    """Return the trees of all rows of a tokenized split: those that may share a line, and those that lie in it alone.

    Args:
        number: of the split, the first part of each query's owner.
        widest: most tokens of a tree that shares a line; a row with a wider one has several trees.
    """
    together: list[Tree] = []
    apart: list[Tree] = []
    for index, row in enumerate(read_rows(directory)):
        texts = [GOLD, *(range(len(row["choice_ids"])) if metric in BY_CHOICES else ())]
        tree = _tree(number, index, row, texts)
        if len(tree.ids) <= widest:
            together.append(tree)
        else:
            one_token = [text for text in texts if text == GOLD or len(row["choice_ids"][text]) == 1]
            apart.append(_tree(number, index, row, one_token))
            apart += [_tree(number, index, row, [text]) for text in texts if text not in one_token]
    return together, apart


def _tree(split: int, index: int, row: Mapping[str, Any], texts: Sequence[int]) -> Tree:
    """Return the tree of a row's prompt and some of its texts, its completion or choices by their number."""
    length, all_ids = row["prompt_length"], row["input_ids"]
    tails = [all_ids[length:] if text == GOLD else row["choice_ids"][text] for text in texts]
    ids, depths, ends, before = grow(all_ids[:length], tails)
    queries = []
    for text, tail, nodes in zip(texts, tails, before, strict=True):
        tokens = np.asarray(tail, dtype=np.int64)
        if text == GOLD:  # turns within the prompt may be learned too
            has_label = np.flatnonzero(row["loss_mask"][1:])
            nodes = np.concatenate([np.arange(length - 1), nodes])[has_label]
            tokens = np.asarray(all_ids[1:], dtype=np.int64)[has_label]
        queries.append(Query((split, index, text), nodes, tokens))
    return Tree(ids, depths, ends, tuple(queries))


def widest_tree(model: Any, logits_at: LogitsAt, device: torch.device) -> int:
    """Return the most tokens of a tree that shares a line with others; 0 for a model that needs each text alone.

    Up to there, the mask of a tree agrees with the windows of the model's attention.
    """
    if not keeps_texts_apart(logits_at, device):
        return 0
    config = model.config.get_text_config()
    return min([sys.maxsize, *(getattr(config, name, None) or sys.maxsize for name in _WINDOWS)])
