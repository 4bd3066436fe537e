"""A damaged checkpoint is named and trained again; a disk that fills up takes nothing that was finished."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from tasks.contracts import RolloutResult, RolloutSpec, SearchRef
from tasks.errors import NoDiskSpaceError
from tasks.record.paths import checkpoint_directory
from tasks.record.rollout import read_restarts, verify
from tasks.registry import runs as tracking
from tasks.registry.live import record_rollout
from tasks.training import is_done
from tasks.workers.train import Trainer, train
from tasks.workers.training.tensor_file import safetensors_parts
from tests.faults.comparison import tracked

MakeRollout = Callable[..., Path]
STEPS = [0, 4, 9]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def checkpoint(spec_path: Path, step: int) -> Path:
    return checkpoint_directory(spec_path.parent, step)


def weights(spec_path: Path) -> list[str]:
    """Return the hash of the weights of every checkpoint, after checking all its files."""
    return contents(spec_path, "model.safetensors")


def contents(spec_path: Path, name: str) -> list[str]:
    """Return the hash of this file of every checkpoint, after checking all its files."""
    for step in STEPS:
        verify(checkpoint(spec_path, step))
    files = [checkpoint(spec_path, step) / name for step in STEPS]
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


DAMAGES: dict[str, tuple[int, Callable[[Path], object], str]] = {
    "truncated weights": (9, lambda d: truncate(d / "model.safetensors"), "model.safetensors: got "),
    "empty optimizer": (9, lambda d: (d / "optimizer.safetensors").write_bytes(b""), "got 0 bytes"),
    "a flipped bit": (9, lambda d: flip_a_bit(d / "model.safetensors"), "content differs from its sha256"),
    "missing trainer state": (9, lambda d: (d / "trainer_state.json").unlink(), "json: missing"),
    "empty manifest": (4, lambda d: (d / "manifest.json").write_text(""), "manifest.json: "),
    "truncated before the last": (4, lambda d: truncate(d / "model.safetensors"), "model.safetensors: got "),
    "the base model's": (0, lambda d: truncate(d / "model.safetensors"), "model.safetensors: got "),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_of_the_current_round_is_retrained(
    make_rollout: MakeRollout, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    step, break_it, named = DAMAGES[damage]
    spec_path = make_rollout("one")
    train(spec_path)
    expected = contents(spec_path, "manifest.json")
    result_path = spec_path.parent / "rollout_result.json"
    result_path.unlink()  # as if the worker was killed right before it
    break_it(checkpoint(spec_path, step))
    train(spec_path)
    said = capsys.readouterr().out
    assert f"step-{step:08d} is damaged" in said
    assert named in said
    # It names the hash of every file, and when it was published: the time of all points in MLflow.
    assert contents(spec_path, "manifest.json") == expected
    result = RolloutResult.model_validate_json(result_path.read_text())
    assert [reference.key.step for reference in result.checkpoints] == STEPS


@pytest.mark.parametrize(
    "break_it", [shutil.rmtree, lambda d: flip_a_bit(d / "model.safetensors")], ids=["removed", "flipped bit"]
)
def test_a_damaged_checkpoint_of_a_finished_rollout_is_retrained(
    make_rollout: MakeRollout, break_it: Callable[[Path], object], capsys: pytest.CaptureFixture[str]
) -> None:
    spec_path = make_rollout("one")
    train(spec_path)
    expected = weights(spec_path)
    search = SearchRef(
        search_id="test", name="test", directory=str(spec_path.parents[2]), tracking_uri="", outage_s=0,
        experiment_id="", run_id="",
    )  # fmt: skip
    result_path = spec_path.parent / "rollout_result.json"
    assert is_done(search, result_path)
    break_it(checkpoint(spec_path, 4))
    assert not is_done(search, result_path)
    assert "step-00000004 is damaged" in capsys.readouterr().out
    train(spec_path)
    assert is_done(search, result_path)
    assert weights(spec_path) == expected


@pytest.mark.parametrize("damage", [shutil.rmtree, lambda d: (d / "manifest.json").write_text("")])
def test_a_retrained_checkpoint_doubles_no_point_in_mlflow(
    make_rollout: MakeRollout, damage: Callable[[Path], object], prepare_root: Callable[[Path], Path], tmp_path: Path
) -> None:
    prepare_root(tmp_path)
    spec_path = make_rollout("one")
    spec = RolloutSpec.model_validate_json(spec_path.read_text())
    search = tracking.open_search_run(
        SearchRef(
            search_id="test", name="test", directory=str(spec_path.parents[2]),
            tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}", outage_s=0, experiment_id="", run_id="",
        ), "torn", {}, is_new=True,
    )  # fmt: skip
    client = MlflowClient(search.tracking_uri, search.tracking_uri)

    def record() -> dict[str, Any]:
        train(spec_path)
        result = RolloutResult.model_validate_json((spec_path.parent / "rollout_result.json").read_text())
        record_rollout(search, spec.mixture, result.checkpoints, result.intervals)
        return tracked(client, search.experiment_id, search.search_id)

    expected = record()
    points = expected["runs"]["round 0"]["points"]
    assert [step for key, step, _ in points if key == "train/seconds"] == STEPS[1:]
    (spec_path.parent / "rollout_result.json").unlink()
    for step in STEPS:
        damage(checkpoint(spec_path, step))
    assert record() == expected


@pytest.mark.parametrize("file_number", [1, 2])
def test_a_disk_that_fills_up_leaves_older_checkpoints_whole(
    make_rollout: MakeRollout, file_number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = make_rollout("undisturbed")
    train(undisturbed)
    spec_path = make_rollout("full")
    calls = count(1)

    def full(tensors: Any) -> Iterator[bytes | memoryview]:
        number = next(calls)
        if number == 2 + file_number:  # two files a checkpoint; the base model's fits
            yield b"half of it"
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield from safetensors_parts(tensors)

    with monkeypatch.context() as patch:
        patch.setattr("tasks.workers.training.checkpoint.safetensors_parts", full)
        with pytest.raises(NoDiskSpaceError, match="no room for a checkpoint"):
            train(spec_path)
    left = [path.name for path in (spec_path.parent / "checkpoints").iterdir()]
    assert left == ["step-00000000"]
    verify(checkpoint(spec_path, 0))
    train(spec_path)
    assert weights(spec_path) == weights(undisturbed)


def test_what_a_worker_trained_in_vain_is_on_record(make_rollout: MakeRollout, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails before its eighth step of 16 rows, three steps after its checkpoint at step 4."""
    spec_path = make_rollout("killed")
    take_step = Trainer.train_step

    def fail_at_7(self: Trainer, rows: Any) -> None:
        if self.position.step == 7:
            raise KeyboardInterrupt
        take_step(self, rows)

    monkeypatch.setattr("tasks.record.rollout._REPORT_S", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", fail_at_7)
        with pytest.raises(KeyboardInterrupt):
            train(spec_path)
    train(spec_path)
    (restart,) = read_restarts(spec_path.parent)
    assert (restart.reached_step, restart.resumed_step) == (7, 4)
    assert restart.lost.num_examples == 3 * 16
    result = RolloutResult.model_validate_json((spec_path.parent / "rollout_result.json").read_text())
    # Steps 5 to 7 of the interval of steps 5 to 9.
    assert 0 < restart.lost.num_tokens < result.intervals[1].num_tokens
    assert 0 < restart.lost.flops < result.intervals[1].flops
    assert restart.lost.seconds > 0
