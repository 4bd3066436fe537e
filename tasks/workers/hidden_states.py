"""Compute the outputs of frozen layers once: `python -m tasks.workers.hidden_states hidden_states_spec.json`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.contracts import SplitRef
from tasks.data.hidden_cache import TRAIN, HiddenStatesSpec, states_folder
from tasks.runtime.spans import span
from tasks.workers.cut import Cut, cut_of
from tasks.workers.forward import LogitsAt
from tasks.workers.model import choose_device, load_base
from tasks.workers.row_trees import trees_of, widest_tree
from tasks.workers.scoring import tokens_of_pass
from tasks.workers.states import write_states
from tasks.workers.supervisor import run_worker
from tasks.workers.training.batches import row_store
from tasks.workers.trees import Query, Tree, pack


def compute(spec_path: Path) -> None:
    """Write the hidden states of all splits of a spec; what is there already stays.

    Raises:
        ModelError: the model cannot be cut.
    """
    spec = HiddenStatesSpec.model_validate_json(spec_path.read_text())
    device = choose_device(spec.device)
    with span("model loading"):
        model = load_base(spec.model).to(device).eval()
    cut = cut_of(model)
    assert cut is not None
    dtype = torch.bfloat16 if spec.precision == "bf16" else torch.float32
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=spec.precision == "bf16"):
        logits_at = LogitsAt(model)
        widest = widest_tree(model, logits_at, device)
        cut.check(model, spec.model.directory, max(1e-3, logits_at.tolerance))
        budget = tokens_of_pass(spec.batch_tokens, device)
        wanted = [(split, TRAIN) for split in spec.trained]
        wanted += [(part.split, part.metric) for part in spec.scored]
        for split, purpose in dict.fromkeys(wanted):
            folder = states_folder(spec.directory, split, purpose)
            if folder.exists():
                continue
            together, apart = _trees(split, purpose, widest)
            passes = [*pack(together, budget, alone=False), *pack(apart, budget, alone=True)]
            trees = [*together, *apart]
            parts = _outputs(cut, model, passes, {id(tree): number for number, tree in enumerate(trees)}, device)
            with span("hidden states"):
                width = model.config.get_text_config().hidden_size
                write_states(folder, trees, width, dtype, parts)


def _trees(split: SplitRef, purpose: str, widest: int) -> tuple[list[Tree], list[Tree]]:
    """Return the trees of the rows as scoring makes them, or chains for training in the order of the rows."""
    if purpose != TRAIN:
        return trees_of(0, split.directory, purpose, widest)
    store = row_store(split)
    chains = [_chain(index, np.asarray(store.row(index)[0], dtype=np.int64)) for index in range(len(store))]
    may_share = all(len(chain.ids) <= widest for chain in chains)
    return (chains, []) if may_share else ([], chains)


def _chain(index: int, ids: Any) -> Tree:
    nothing = np.zeros(0, dtype=np.int64)
    return Tree(ids, np.arange(len(ids)), np.full(len(ids), len(ids)), (Query((0, index, 0), nothing, nothing),))


def _outputs(
    cut: Cut, model: Any, passes: Sequence[Any], numbers: dict[int, int], device: torch.device
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the number and the states of each tree, one pass after another."""
    for each in passes:
        states = cut.outputs(model, each.inputs(device))
        for line, trees in enumerate(each.lines):
            start = 0
            for tree in trees:
                yield numbers[id(tree)], states[line, start : start + len(tree.ids)]
                start += len(tree.ids)


if __name__ == "__main__":
    sys.exit(run_worker(compute, Path(sys.argv[1])))
