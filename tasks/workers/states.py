"""Hidden states that frozen layers gave for the rows of a split, one row after another in a memory-mapped file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.contracts import SplitRef
from tasks.data.hidden_cache import states_folder
from tasks.runtime.files import publish_folder
from tasks.workers.cut import BITS, States
from tasks.workers.trees import Tree

_META, _VALUES, _OFFSETS = "states.json", "states.npy", "offsets.npy"


class StateStore:
    """The hidden states of one split's rows, or of their trees, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        meta: dict[str, Any] = json.loads((folder / _META).read_text())
        self.layout: str = meta["layout"]
        self._values = np.load(folder / _VALUES, mmap_mode="r")
        self._offsets = np.load(folder / _OFFSETS)

    def of(self, index: int) -> States:
        """Return the states of a row or tree."""
        states: States = self._values[self._offsets[index] : self._offsets[index + 1]]
        return states

    def __len__(self) -> int:
        return len(self._offsets) - 1


def open_states(directory: str | None, split: SplitRef, purpose: str) -> StateStore | None:
    """Return the states of a split, laid out for a metric or for training; None where none are kept."""
    folder = states_folder(directory, split, purpose) if directory is not None else None
    return _open(folder) if folder is not None and (folder / _META).is_file() else None


@cache  # the splits of a search, for all of its checkpoints and roll-outs
def _open(folder: Path) -> StateStore:
    return StateStore(folder)


def write_states(
    folder: Path, trees: Sequence[Tree], width: int, dtype: torch.dtype, parts: Iterator[tuple[int, Any]]
) -> None:
    """Publish the states of trees.

    Args:
        width: values of a token.
        parts: index of a tree and its states, a tensor of shape (tokens, width), in any order.
    """
    sizes, layout = [len(tree.ids) for tree in trees], layout_of(trees)
    offsets = np.concatenate([[0], np.cumsum(np.asarray(sizes, dtype=np.int64))])
    kept = BITS if dtype == torch.bfloat16 else np.dtype(np.float32)

    def write(staging: Path) -> None:
        shape = (int(offsets[-1]), width)
        values = np.lib.format.open_memmap(staging / _VALUES, mode="w+", dtype=kept, shape=shape)
        for index, states in parts:
            states = states.to(dtype).cpu()
            held = states.view(torch.int16) if dtype == torch.bfloat16 else states
            values[offsets[index] : offsets[index + 1]] = held.numpy()
        values.flush()
        np.save(staging / _OFFSETS, offsets)
        (staging / _META).write_text(json.dumps({"layout": layout}))

    publish_folder(folder, write, "hidden states of frozen layers", int(offsets[-1]) * width * kept.itemsize)


def layout_of(trees: Sequence[Tree]) -> str:
    """Return the fingerprint of trees, in their order."""
    digest = hashlib.sha256()
    for tree in trees:
        for array in (tree.ids, tree.depths, tree.ends):
            digest.update(np.ascontiguousarray(array, dtype=np.int64).tobytes())
    return digest.hexdigest()


def attach_states(trees: Sequence[Tree], stores: Sequence[StateStore | None]) -> list[Tree] | None:
    """Return the trees with their states; None where those of a split are missing, or are of other trees.

    Args:
        stores: by the number of the split, the first part of the owner of a tree's queries.
    """
    by_split: list[list[Tree]] = [[] for _ in stores]
    places = []
    for tree in trees:
        own = by_split[tree.queries[0].owner[0]]
        places.append(len(own))
        own.append(tree)
    if any(store is None or layout_of(own) != store.layout for own, store in zip(by_split, stores, strict=True)):
        return None
    owners = [stores[tree.queries[0].owner[0]] for tree in trees]
    return [
        replace(tree, states=store.of(place))
        for tree, store, place in zip(trees, owners, places, strict=True)
        if store is not None
    ]
