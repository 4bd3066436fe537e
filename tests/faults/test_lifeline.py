"""A worker whose launcher is gone saves and ends; one whose owner is gone ends; two never share a spec."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

# A worker that takes longer to save than the watch takes to look.
WORKER = """
import sys, time
from pathlib import Path
from tasks.workers.lifeline import Preempted, StopFlag, run_worker

def main(spec):
    stop = StopFlag()
    spec.with_name(f"ready-{sys.argv[2]}").touch()
    while not stop.is_set:
        time.sleep(0.05)
    time.sleep(2.5)
    spec.with_name(f"saved-{sys.argv[2]}").touch()
    raise Preempted

sys.exit(run_worker(main, Path(sys.argv[1])))
"""
# For what takes a second or two, on a machine that others use.
PATIENCE_S = 120.0
LAUNCHER = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]])"


def start(spec: Path, owner: int, name: str = "one") -> subprocess.Popen[bytes]:
    worker = spec.with_name("worker.py")
    worker.write_text(WORKER)
    command = [sys.executable, "-c", LAUNCHER, str(worker), str(spec), name]
    return subprocess.Popen(command, env={**os.environ, "MSFT_OWNER_PID": str(owner)})


def appears(path: Path, within_s: float = PATIENCE_S) -> bool:
    deadline = time.monotonic() + within_s
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return path.exists()


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "rollout_spec.json"
    path.write_text("{}")
    return path


def test_a_worker_that_lost_its_launcher_saves_before_it_ends(spec: Path) -> None:
    launcher = start(spec, os.getpid())
    assert appears(spec.with_name("ready-one"))
    launcher.kill()
    launcher.wait()
    assert appears(spec.with_name("saved-one"))
    assert appears(spec.with_name("rollout_failure.json"))
    assert json.loads(spec.with_name("rollout_failure.json").read_text())["preempted"]


def test_a_worker_that_lost_its_owner_ends_at_once(spec: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    launcher = start(spec, owner.pid)
    assert appears(spec.with_name("ready-one"))
    owner.kill()
    owner.wait()
    launcher.wait(PATIENCE_S)  # it waits for the worker, which would never end
    assert not spec.with_name("saved-one").exists()


def test_a_second_worker_waits_until_the_first_has_saved(spec: Path) -> None:
    first = start(spec, os.getpid(), "one")
    assert appears(spec.with_name("ready-one"))
    second = start(spec, os.getpid(), "two")
    first.kill()
    first.wait()
    assert appears(spec.with_name("ready-two"))
    assert spec.with_name("saved-one").exists()
    second.kill()
    second.wait()
    assert appears(spec.with_name("saved-two"))
