"""Two processes that share a model's weights (FSDP2, as shipped) train, publish and go on as one process does."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tasks.contracts import RolloutResult, RolloutSpec
from tasks.record.paths import checkpoint_directory
from tasks.runtime.launch import run_accelerate
from tasks.workers.train import train

MakeRollout = Callable[..., Path]
FSDP = Path(__file__).resolve().parents[2] / "deployments" / "accelerate" / "fsdp.yaml"
FILES = {"model", "average", "optimizer"}


def train_sharded(path: Path) -> None:
    spec = RolloutSpec.model_validate_json(path.read_text())
    run_accelerate("tests.numerics.fsdp_on_cpu", path, name="sharded", training=spec.training)


def assert_as_one_process(one: Path, other: Path) -> None:
    """Compare weights, their average and the optimizer's moments at both evaluations, and the losses between."""
    for step in (4, 9):
        directories = [checkpoint_directory(path.parent, step) for path in (one, other)]
        assert {path.stem for path in directories[1].glob("*.safetensors")} == FILES
        for file in FILES:
            left, right = (load_file(directory / f"{file}.safetensors") for directory in directories)
            assert set(left) == set(right)
            for name, value in left.items():
                torch.testing.assert_close(right[name], value, rtol=0, atol=2e-5, msg=f"{file} {name}")
    results = [
        RolloutResult.model_validate_json((path.parent / "rollout_result.json").read_text()) for path in (one, other)
    ]
    for left_interval, right_interval in zip(*(result.intervals for result in results), strict=True):
        assert right_interval.batch_hash == left_interval.batch_hash
        assert right_interval.losses == pytest.approx(left_interval.losses, abs=1e-5)


def forget_the_end(path: Path) -> None:
    """Leave what a roll-out has that was killed after its first evaluation."""
    (path.parent / "rollout_result.json").unlink()
    shutil.rmtree(checkpoint_directory(path.parent, 9))


def test_sharded_training_equals_one_process_and_resumes_it(make_rollout: MakeRollout) -> None:
    one = make_rollout("one", ema=0.9)
    train(one)
    sharded = make_rollout("sharded", ema=0.9, micro_batch_size=4, accelerate_config=str(FSDP))
    train_sharded(sharded)
    assert_as_one_process(one, sharded)

    forget_the_end(sharded)
    train(sharded)
    assert_as_one_process(one, sharded)

    forget_the_end(sharded)
    own = checkpoint_directory(sharded.parent, 4)
    shutil.rmtree(own)
    shutil.copytree(checkpoint_directory(one.parent, 4), own)
    train_sharded(sharded)
    assert_as_one_process(one, sharded)
