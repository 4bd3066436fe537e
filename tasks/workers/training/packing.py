"""Check that a model keeps packed rows apart, which its configuration does not tell."""

from __future__ import annotations

import numpy as np
import torch

from tasks.errors import ModelError
from tasks.workers.forward import Row
from tasks.workers.training.layout import lay_out
from tasks.workers.training.stepping import Stepper, without_dropout

_NUM_TOKENS = 16
# Largest difference of a logit, in standard deviations of all logits. Measured (SmolLM2-135M, CPU): 7e-6 in fp32 and
# 3e-3 in bf16 if rows stay apart, 2.6 if attention does not separate them; 0.7 in a two-layer Mamba.
_TOLERANCE = {"fp32": 0.01, "bf16": 0.1}


def check_packing(stepper: Stepper) -> None:
    """Compare the logits of two short packed rows with those of each row alone.

    Attention separates rows by their positions. A recurrent layer (Mamba, and hybrids with it) carries its state from
    one row to the next, and few models of transformers declare that.

    Raises:
        ModelError: the rows affect each other.
    """
    stores = (stepper.stores[0], stepper.stores[-1])
    tokens = [stores[0].row(0)[0][:_NUM_TOKENS], stores[1].row(len(stores[1]) - 1)[0][:_NUM_TOKENS]]
    rows = [(index, (ids, np.ones(len(ids), dtype=np.int8))) for index, ids in enumerate(tokens)]
    with torch.no_grad(), without_dropout(stepper.model):
        together = _logits(stepper, rows, packed=True)
        alone = torch.cat([_logits(stepper, [row], packed=False) for row in rows])
    stepper.learner.reshard()
    difference = float((together - alone).abs().max() / alone.std())
    training = stepper.spec.training
    if not difference <= _TOLERANCE[training.precision]:
        raise ModelError(
            stepper.spec.model.directory,
            got=f"packed rows that affect each other: logits differ by {difference:.2g} standard deviations",
            expected="for training.batching=packed, a model that separates packed rows; recurrent ones do not",
            fix="run the same command again with --set training.batching=grouped --accept-changes",
        )


def _logits(stepper: Stepper, rows: list[tuple[int, Row]], *, packed: bool) -> torch.Tensor:
    """Return the logits before each row's second and later tokens, of shape (tokens, vocabulary)."""
    none, device = np.zeros(0, dtype=np.int64), stepper.accelerator.device
    (one,), _ = lay_out([rows], none, device, packed=packed, bounded=stepper.bounds_rows)
    return stepper.logits_at(one.inputs, one.positions)
