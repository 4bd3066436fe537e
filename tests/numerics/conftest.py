"""A trainer of a roll-out, and a small model that is right on some rows and wrong on others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tasks.contracts import BaseModelRef, RolloutSpec
from tasks.data.encoder import Encoder
from tasks.workers.train import Trainer
from tests.conftest import examples_of


@pytest.fixture(scope="session")
def half_taught(tiny_base: BaseModelRef, encoder: Encoder) -> Any:
    """The tiny model after a short training on `max`: right on some rows, wrong on others."""
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(tiny_base.directory, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    rows = [encoder.encode(example) for example in examples_of("max")]
    for _ in range(40):
        loss = torch.zeros(())
        for row in rows:
            ids = torch.tensor([row["input_ids"]])
            labels = torch.where(torch.tensor([row["loss_mask"]]) == 1, ids, -100)
            loss = loss + model(input_ids=ids, labels=labels).loss / len(rows)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def trainer_of(path: Path) -> Trainer:
    """Return the trainer of a roll-out's spec before its first step."""
    trainer = Trainer(RolloutSpec.model_validate_json(path.read_text()))
    trainer.start_progress()
    return trainer
