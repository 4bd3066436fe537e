"""Checkpoints that are written while training goes on: the same bits, and nothing that is finished is lost.

Only a GPU's worker writes so by itself (tasks/workers/training/publishing.py); these tests make one on the CPU do it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.errors import NoDiskSpaceError
from tasks.record.paths import checkpoint_directory, published_checkpoints, step_of
from tasks.record.rollout import read_manifest, verify
from tasks.workers import train as worker
from tasks.workers.supervisor import Preempted
from tasks.workers.train import Trainer, train
from tasks.workers.training.checkpoint import publish_checkpoint
from tests.numerics.test_training import spec_of

MakeRollout = Callable[..., Path]
PATIENCE_S = 60


@pytest.fixture(autouse=True)
def _behind(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(worker, "goes_behind", lambda device: True)


@pytest.fixture
def straight(make_rollout: MakeRollout) -> Path:
    """A roll-out that waits for each of its checkpoints."""
    path = make_rollout("straight", ema=0.9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "goes_behind", lambda device: False)
        train(path)
    return path


def hashes(spec_path: Path, step: int) -> dict[str, str]:
    """Return the hashes of the tensors of a checkpoint."""
    directory = checkpoint_directory(spec_path.parent, step)
    verify(directory)
    files = read_manifest(directory)["files"]
    return {name: entry["sha256"] for name, entry in files.items() if name.endswith(".safetensors")}


def published(spec_path: Path) -> list[int]:
    return sorted(step_of(directory) for directory in published_checkpoints(spec_path.parent))


class Held:
    """Lets the publications of steps 0 and 4 wait until the trainer has taken `num_steps` more steps."""

    def __init__(self, trainer: Trainer, num_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trainer, self.num_steps = trainer, num_steps
        self.steps_behind: list[int] = []
        self.taken = threading.Condition()
        take_step = trainer.train_step

        def step(rows: Any) -> None:
            take_step(rows)
            with self.taken:
                self.taken.notify()

        monkeypatch.setattr(trainer, "train_step", step)
        monkeypatch.setattr(worker, "publish_checkpoint", self.publish)

    def publish(self, output: Path, key: Any, *content: Any) -> str | None:
        until = key.step + (self.num_steps if key.step in (0, 4) else 0)
        with self.taken:
            assert self.taken.wait_for(lambda: self.trainer.position.step >= until, PATIENCE_S)
        self.steps_behind.append(self.trainer.position.step - key.step)
        return publish_checkpoint(output, key, *content)


def test_a_checkpoint_holds_its_step_however_late_it_is_written(
    straight: Path, make_rollout: MakeRollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_rollout("behind", ema=0.9)
    trainer = Trainer(spec_of(path))
    held = Held(trainer, 3, monkeypatch)
    trainer.run()
    assert held.steps_behind[:2] == [3, 3]
    assert published(path) == [0, 4, 9]
    for step in (0, 4, 9):
        assert hashes(path, step) == hashes(straight, step)


def test_a_notice_waits_for_the_checkpoint_that_is_being_written(
    straight: Path, make_rollout: MakeRollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_rollout("behind", ema=0.9)
    trainer = Trainer(spec_of(path))
    Held(trainer, 1, monkeypatch)
    after_step = trainer.policy.after_step

    def told(*arguments: Any) -> None:
        after_step(*arguments)
        if trainer.position.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(trainer.policy, "after_step", told)
    with pytest.raises(Preempted):
        trainer.run()
    assert published(path) == [0, 4, 5]
    assert hashes(path, 4) == hashes(straight, 4)
    monkeypatch.setattr(worker, "publish_checkpoint", publish_checkpoint)
    train(path)
    assert hashes(path, 9) == hashes(straight, 9)


def test_a_full_disk_behind_training_is_raised_at_the_next_step(
    make_rollout: MakeRollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_rollout("full")
    trainer = Trainer(spec_of(path))
    take_step, has_failed = trainer.train_step, threading.Event()

    def full(*_: Any) -> str | None:
        has_failed.set()
        raise NoDiskSpaceError("here", 1, 0, "a checkpoint")

    def step(rows: Any) -> None:
        take_step(rows)
        if trainer.position.step == 4:
            monkeypatch.setattr(worker, "publish_checkpoint", full)
        if trainer.position.step == 5:
            assert has_failed.wait(PATIENCE_S)
            while trainer.publisher.is_under_way:
                pass

    monkeypatch.setattr(trainer, "train_step", step)
    with pytest.raises(NoDiskSpaceError):
        trainer.run()
    assert trainer.position.step == 5
    assert published(path) == [0]


# Is killed in the middle of the checkpoint of the fourth step, once it has taken its sixth.
KILLED = """
import os, signal, sys, time
from pathlib import Path
from tasks.record import rollout
from tasks.workers import train

spec = train.RolloutSpec.model_validate_json(Path(sys.argv[1]).read_text())
train.goes_behind = lambda device: True
trainer = train.Trainer(spec)
write = rollout.write_hashed

def half(file, parts):
    entry = write(file, parts)
    if file.parent.name.endswith("4"):
        while trainer.position.step < 6:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return entry

rollout.write_hashed = half
trainer.run()
"""


def test_a_worker_killed_while_it_writes_behind_repeats_the_same_bits(
    straight: Path, make_rollout: MakeRollout
) -> None:
    path = make_rollout("killed", ema=0.9)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], env=environment, check=False, timeout=300)
    assert done.returncode == -signal.SIGKILL
    assert published(path) == [0]
    train(path)
    assert published(path) == [0, 4, 9]
    for step in (0, 4, 9):
        assert hashes(path, step) == hashes(straight, step)


def test_every_update_is_held_back_until_the_copy_is_whole(
    make_rollout: MakeRollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(spec_of(make_rollout("behind")))
    held_back: list[int] = []
    monkeypatch.setattr(worker.Snapshot, "hold_back", lambda snapshot: held_back.append(trainer.position.step))
    trainer.run()
    assert held_back == list(range(9))
