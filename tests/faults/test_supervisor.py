"""A worker saves and ends without its launcher, ends without its owner, and shares its spec with no other worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tasks.runtime import launch, processes
from tasks.runtime.pool import hash_of
from tasks.workers import supervisor
from tests.faults.prefect_pool import ROOT

# A worker that takes longer to save than the watch takes to look.
WORKER = """
import sys, time
from pathlib import Path
from tasks.workers.supervisor import Preempted, StopFlag, run_worker

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


def works(process: psutil.Process) -> bool:
    """Return whether the process runs and is no unreaped zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


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


@pytest.mark.parametrize("is_reaped", [True, False], ids=["reaped", "a zombie"])
def test_a_worker_that_lost_its_owner_ends_at_once(spec: Path, is_reaped: bool) -> None:
    owner = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    launcher = start(spec, owner.pid)
    assert appears(spec.with_name("ready-one"))
    owner.kill()
    if is_reaped:
        owner.wait()
    launcher.wait(PATIENCE_S)  # it waits for the worker, which would never end
    owner.wait()
    assert not spec.with_name("saved-one").exists()


def test_an_owner_without_access_counts_as_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_denied(process: psutil.Process) -> str:
        raise psutil.AccessDenied(process.pid)

    assert supervisor.is_alive(psutil.Process())
    monkeypatch.setattr(psutil.Process, "status", is_denied)
    assert not supervisor.is_alive(psutil.Process())


# A worker that is still at its imports.
IMPORTING = """
import os, sys, time
from pathlib import Path

Path(sys.argv[1]).with_name(f"importing-{os.getpid()}").touch()
time.sleep(3600)
"""
OWNER = """
import sys
from pathlib import Path
from tasks.runtime import launch, processes
from tasks.config.schema import TrainingConfig

spec = Path(sys.argv[1])
if sys.argv[2] == "run_module":
    launch.run_module("importing", spec, name="it", threads=1)
if sys.argv[2] == "beside":
    with launch.beside("importing", spec, threads=1, on_poll=lambda: None):
        pass
training = {"batch_size": 1, "learning_rate": 1.0, "max_length": 8, "device": "cpu", "threads": 1}
training["num_processes"] = 2 if sys.argv[2] == "two ranks" else 1
launch.run_accelerate("importing", spec, name="it", training=TrainingConfig(**training))
"""


@pytest.mark.parametrize("way", ["run_module", "beside", "run_accelerate", "two ranks"])
def test_a_worker_that_loses_its_owner_while_importing_ends(spec: Path, way: str) -> None:
    spec.with_name("importing.py").write_text(IMPORTING)
    paths = [str(spec.parent), *filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(spec), way], env=environment)
    deadline = time.monotonic() + PATIENCE_S
    while not (begun := list(spec.parent.glob("importing-*"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    worker = psutil.Process(int(begun[0].name.removeprefix("importing-")))
    owner.kill()
    owner.wait()
    while (has_survived := works(worker)) and time.monotonic() < deadline + PATIENCE_S:
        time.sleep(0.05)
    if has_survived:
        worker.kill()
    assert not has_survived


def test_a_preemption_in_the_midst_of_the_imports_is_told_as_one(spec: Path) -> None:
    spec.with_name("torch.py").write_text(IMPORTING.replace("sys.argv[1]", "sys.argv[-1]"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(spec.parent), str(ROOT)])}
    answer = {"attempt": 0, "spec_sha256": hash_of(spec)}
    log = str(spec.with_suffix(".log"))
    content = {"module": "tasks.workers.score", "spec": str(spec), "log": log, "answer": answer}
    spec.with_name("000000.json").write_text(json.dumps(content))
    command = [*processes.PYTHON, "-m", "tasks.workers.serve", str(spec.parent)]
    worker = subprocess.Popen(command, env=environment)
    assert appears(spec.with_name(f"importing-{worker.pid}"))
    worker.terminate()
    assert worker.wait(PATIENCE_S) == supervisor.PREEMPTED
    assert json.loads(launch.failure_path_of(spec).read_text())["preempted"]


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
