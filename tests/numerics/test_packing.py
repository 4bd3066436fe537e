"""Packed rows stay apart in a model of attention; one that carries a state from row to row is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks.contracts import BaseModelRef, RolloutSpec
from tasks.data.model_size import measure_model
from tasks.errors import ModelError
from tasks.record.paths import checkpoint_directory
from tasks.runtime.launch import run_accelerate
from tasks.workers.build_base import build_base
from tasks.workers.train import Trainer, train
from tasks.workers.training import packing

MakeRollout = Callable[..., Path]
MAMBA = {"model_type": "mamba", "hidden_size": 32, "state_size": 8, "num_hidden_layers": 2}


@pytest.fixture(scope="module")
def mamba(tiny_base: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> BaseModelRef:
    """A model without attention."""
    directory = tmp_path_factory.mktemp("models") / "mamba"
    spec: dict[str, Any] = {"source": None, "from_config": MAMBA, "tokenizer": "characters", "seed": 3}
    spec |= {"trust_remote_code": False, "directory": str(directory)}
    path = directory.with_suffix(".json")
    path.write_text(json.dumps(spec))
    build_base(path)
    return tiny_base.model_copy(update={"directory": str(directory)})


def spec_of(path: Path) -> RolloutSpec:
    return RolloutSpec.model_validate_json(path.read_text())


def test_a_recurrent_model_is_refused_for_packed_rows(mamba: BaseModelRef, make_rollout: MakeRollout) -> None:
    path = make_rollout("packed", base=mamba, batching="packed")
    with pytest.raises(ModelError, match="packed rows that affect each other") as refused:
        train(path)
    assert "--set training.batching=grouped --accept-changes" in str(refused.value)
    assert not refused.value.retryable
    assert not (path.parent / "checkpoints").exists()


def test_a_recurrent_model_trains_grouped_as_it_does_row_by_row(mamba: BaseModelRef, make_rollout: MakeRollout) -> None:
    assert measure_model(mamba).shape.attention_width == 0
    weights = []
    for name, size in (("grouped", None), ("row by row", 1)):
        path = make_rollout(name, base=mamba, micro_batch_size=size)
        train(path)
        weights.append(load_file(checkpoint_directory(path.parent, 9) / "model.safetensors"))
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=2e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_of_attention_passes_and_trains_on(make_rollout: MakeRollout, precision: str) -> None:
    path = make_rollout("llama", batching="packed", precision=precision)
    run_accelerate("tasks.workers.train", path, name="packed", training=spec_of(path).training)
    assert checkpoint_directory(path.parent, 9).is_dir()


def test_attention_without_row_bounds_is_refused(make_rollout: MakeRollout, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a model's own code may, which drops the positions and counts on."""
    trainer = Trainer(spec_of(make_rollout("llama", batching="packed")))
    lay_out = packing.lay_out

    def without_positions(*args: Any, **kwargs: Any) -> Any:
        passes, also = lay_out(*args, **kwargs)
        passes[0].inputs.pop("position_ids", None)
        return passes, also

    monkeypatch.setattr(packing, "lay_out", without_positions)
    with pytest.raises(ModelError, match="packed rows that affect each other"):
        packing.check_packing(trainer.stepper)
