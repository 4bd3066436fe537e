"""A preempted worker is restarted after growing pauses, up to a limit; a worker starts in a clean environment."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.config.schema import TrainingConfig
from tasks.errors import WorkerError
from tasks.runtime import launch
from tasks.runtime.launch import run_accelerate, run_module

# Finishes one piece of work in each start that the spec names, and is preempted until it has had all its starts.
WORKER = """
import json, sys
from pathlib import Path
from tasks.workers.supervisor import Preempted, run_worker

def main(path):
    spec = json.loads(path.read_text())
    starts = path.with_name("starts")
    number = int(starts.read_text()) + 1 if starts.exists() else 1
    starts.write_text(str(number))
    if number in spec["advances_in"]:
        path.with_name(f"done-{number}").touch()
    if number < spec["ends_in"]:
        raise Preempted

sys.exit(run_worker(main, Path(sys.argv[1])))
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "preempted_worker.py").write_text(WORKER)
    (modules / "telling_worker.py").write_text(TELLING)
    monkeypatch.setenv("PYTHONPATH", str(modules), prepend=os.pathsep)
    monkeypatch.setattr(launch, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(launch, "MAX_RESTARTS", 2)
    return tmp_path / "rollout_spec.json"


def run(spec: Path, advances_in: list[int], ends_in: int) -> int:
    """Run the worker, and return how often it was started."""
    spec.write_text(json.dumps({"advances_in": advances_in, "ends_in": ends_in}))
    try:
        run_module(
            "preempted_worker", spec, name="roll-out", threads=1, progress=lambda: len(list(spec.parent.glob("done-*")))
        )
    finally:
        starts = int(spec.with_name("starts").read_text())
    return starts


def test_a_preempted_worker_restarts_and_says_so(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(spec, [], ends_in=3) == 3
    told = capsys.readouterr().out
    pattern = r"worker preempted; checkpoint saved, restarting in (\S+) s \(restart (\d) of 2\)"
    assert re.findall(pattern, told) == [("0.01", "1"), ("0.02", "2")]


def test_a_worker_preempted_without_progress_ends_at_the_limit(spec: Path) -> None:
    with pytest.raises(WorkerError, match="preempted 3 times in a row, and made no progress") as failed:
        run(spec, [], ends_in=99)
    assert not failed.value.retryable
    assert spec.with_name("starts").read_text() == "3"


def test_progress_starts_the_count_of_restarts_again(spec: Path) -> None:
    assert run(spec, [1, 3, 5], ends_in=7) == 7


TELLING = """
import json, os, sys
from pathlib import Path
import tasks

told = {"tasks": tasks.__file__, "environment": dict(os.environ)}
Path(sys.argv[1]).with_name(f"told-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(told))
"""
LEFT_OVER = {
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_MIXED_PRECISION": "fp16",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "OMPI_COMM_WORLD_SIZE": "4",
    "WORLD_SIZE": "4",
    "RANK": "3",
    "LOCAL_RANK": "3",
    "MASTER_ADDR": "elsewhere",
    "MASTER_PORT": "1",
}
ALONE = {"batch_size": 1, "learning_rate": 1.0, "max_length": 8, "device": "cpu", "threads": 1}


def by_module(spec: Path) -> None:
    run_module("telling_worker", spec, name="it", threads=1)


def by_accelerate(spec: Path) -> None:
    run_accelerate("telling_worker", spec, name="it", training=TrainingConfig(**ALONE))


def by_torchrun(spec: Path) -> None:
    run_accelerate("telling_worker", spec, name="it", training=TrainingConfig(**ALONE, num_processes=2))


@pytest.mark.parametrize(("way", "ranks"), [(by_module, 1), (by_accelerate, 1), (by_torchrun, 2)])
def test_a_worker_sees_no_left_over_launcher_nor_tasks_py(
    spec: Path, monkeypatch: pytest.MonkeyPatch, way: Callable[[Path], None], ranks: int
) -> None:
    folder = spec.parent / "of-a-user"
    folder.mkdir()
    (folder / "tasks").with_suffix(".py").write_text("raise SystemExit('not ours')")
    monkeypatch.chdir(folder)
    for name, value in LEFT_OVER.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", "example.org")
    monkeypatch.setenv("HF_HOME", str(spec.parent / "home"))
    home = spec.parent / "home" / "accelerate"
    home.mkdir(parents=True)  # as `accelerate config` leaves it
    (home / "default_config.yaml").write_text("distributed_type: FSDP\ngpu_ids: '0'\n")
    way(spec)
    told = [json.loads(path.read_text()) for path in sorted(spec.parent.glob("told-*.json"))]
    assert len(told) == ranks
    for worker in told:
        environment = worker["environment"]
        assert Path(worker["tasks"]).parent == Path(launch.__file__).parents[1]
        assert environment.get("WORLD_SIZE", "1") == str(ranks)
        assert environment.get("ACCELERATE_USE_FSDP", "false") == "false"
        assert environment.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1") == "1"
        assert "OMPI_COMM_WORLD_SIZE" not in environment
        assert environment.get("MASTER_ADDR") != "elsewhere"
        assert environment["NO_PROXY"].split(",") == ["example.org", "127.0.0.1", "localhost", "::1"]
