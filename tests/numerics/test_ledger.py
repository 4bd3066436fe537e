"""The ledger's tokens are those that the worker fed to the model; its FLOPs are those that a profiler counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tasks.algorithm.costs import RowCost
from tasks.config.schema import LoraConfig
from tasks.contracts import BaseModelRef, Mixture, RolloutResult
from tasks.workers import train as worker
from tasks.workers.forward import LogitsAt
from tasks.workers.model import load_base, shape_of
from tasks.workers.training import stepping
from tasks.workers.training.batches import RowStore
from tasks.workers.training.layout import lay_out

TOLERANCE = 0.02
# The formula charges adapters with the gradient of the first layer's inputs, which nobody needs: a large part of one or
# two layers, and a small one of many.
LORA_TOLERANCE = {None: 0.07, 1: 0.1}  # by the number of trained layers


@pytest.mark.parametrize("batching", ["grouped", "packed", "padded"])
def test_the_ledger_counts_what_reached_the_model(
    make_rollout: Callable[..., Path], batching: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted where the rows become a batch, one micro-batch at a time, and padding left out."""
    lengths: list[int] = []

    def counting(groups: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        lengths.extend(len(ids) for group in groups for _, (ids, _) in group)
        return lay_out(groups, *args, **kwargs)

    monkeypatch.setattr(stepping, "lay_out", counting)
    spec_path = make_rollout("one", batching=batching, micro_batch_size=4)
    worker.train(spec_path)
    result = RolloutResult.model_validate_json((spec_path.parent / "rollout_result.json").read_text())
    assert sum(interval.num_tokens for interval in result.intervals) == sum(lengths) > 0
    assert sum(interval.num_examples for interval in result.intervals) == len(lengths) == 144


@pytest.mark.parametrize("num_trained", [None, 1], ids=["all layers", "one layer"])
@pytest.mark.parametrize("lora", [None, LoraConfig(r=4, alpha=8)], ids=["full", "lora"])
def test_the_flops_formula_is_within_2_percent_of_a_profiler(
    tiny_base: BaseModelRef, tiny_mixture: Mixture, lora: LoraConfig | None, num_trained: int | None
) -> None:
    update = {"lora": lora, "attn_implementation": "eager", "trainable_layers": num_trained}
    base = tiny_base.model_copy(update=update)
    model = load_base(base)
    model.train()
    store = RowStore(tiny_mixture.draws[1].train)
    length = max(store.length(row) for row in range(len(store)))
    rows = [store.row(row) for row in range(len(store)) if store.length(row) == length]
    ids = torch.tensor(np.array([row_ids for row_ids, _ in rows]), dtype=torch.long)
    has_label = torch.tensor(np.array([loss_mask for _, loss_mask in rows]))[:, 1:].nonzero()
    positions, labels = has_label[:, 0] * length + has_label[:, 1], ids[:, 1:][tuple(has_label.T)]
    num_tokens, num_pairs = length * len(rows), length * length * len(rows)
    num_labels = sum(int(loss_mask[1:].sum()) for _, loss_mask in rows)
    logits_at = LogitsAt(model)
    with FlopCounterMode(display=False) as forward:
        losses = logits_at.losses({"input_ids": ids}, positions, labels)
    with FlopCounterMode(display=False) as backward:
        losses.sum().backward()
    counted, shape = forward.get_total_flops(), shape_of(model)
    cost = RowCost(num_tokens, num_pairs, num_labels)
    assert cost.forward_flops(shape) == pytest.approx(counted, rel=TOLERANCE)
    counted += backward.get_total_flops()
    formula = cost.training_flops(shape)
    assert formula == pytest.approx(counted, rel=TOLERANCE if lora is None else LORA_TOLERANCE[num_trained])
