"""A worker process stays between the requests of a search, and another takes its place when it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tasks.config.schema import TrainingConfig
from tasks.errors import WorkerError
from tasks.runtime.files import hash_file
from tasks.runtime.launch import log_path_of, run_accelerate, run_module, start_pool
from tasks.runtime.pool import Request, worker_pool
from tasks.runtime.processes import end_groups, spawn

# Adds its process id to a list, and ends as the spec says.
WORKER = """
import json, os, sys, time
from pathlib import Path
from tasks.workers.supervisor import run_worker

def main(path):
    spec = json.loads(path.read_text())
    with path.with_name(f"pids-{os.environ.get('RANK', '0')}").open("a") as pids:
        print(os.getpid(), file=pids)
    print("told by", path.name)
    if spec["ends"] == "fails":
        raise ValueError("no good")
    time.sleep(spec["seconds"] if os.environ.get("RANK") == "1" else 0)

sys.exit(run_worker(main, Path(sys.argv[1])))
"""
ONE_RANK = {"batch_size": 2, "learning_rate": 1.0, "max_length": 8, "device": "cpu", "threads": 1}
TWO_RANKS = {**ONE_RANK, "num_processes": 2}


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "pooled_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(modules), prepend=os.pathsep)
    return modules


@pytest.fixture
def folder(tmp_path: Path, modules: Path) -> Iterator[Path]:
    with worker_pool(str(tmp_path)):
        yield tmp_path


def spec_in(folder: Path, name: str, ends: str = "well", seconds: float = 0.0) -> Path:
    path = folder / f"{name}_spec.json"
    path.write_text(json.dumps({"ends": ends, "seconds": seconds}))
    return path


def run(folder: Path, name: str, ends: str = "well") -> None:
    run_module("pooled_worker", spec_in(folder, name, ends), name=name, threads=1)


def pids(folder: Path, rank: int = 0) -> list[int]:
    return [int(line) for line in (folder / f"pids-{rank}").read_text().split()]


def workers_of(folder: Path) -> list[psutil.Process]:
    """Return the processes of the folder's pool, and none that other tests of this process have started."""
    return [child for child in psutil.Process().children() if any(str(folder) in word for word in child.cmdline())]


def test_one_process_serves_all_requests_each_with_its_log(folder: Path) -> None:
    for name in ("one", "two", "three"):
        run(folder, name)
        assert log_path_of(folder / f"{name}_spec.json").read_text() == f"told by {name}_spec.json\n"
    assert len(pids(folder)) == 3
    assert len(set(pids(folder))) == 1


def test_a_request_that_fails_ends_its_process_and_no_other_request(folder: Path) -> None:
    run(folder, "one")
    with pytest.raises(WorkerError, match="ValueError: no good"):
        run(folder, "two", ends="fails")
    run(folder, "three")
    first, second, third = pids(folder)
    assert first == second != third
    assert not psutil.pid_exists(first)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_idle_process_that_ends_is_replaced(folder: Path, number: int) -> None:
    run(folder, "one")
    worker = psutil.Process(pids(folder)[0])
    worker.send_signal(number)
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
        pass
    run(folder, "two")
    assert pids(folder)[0] != pids(folder)[1]


def test_a_request_is_done_when_the_last_rank_has_finished(folder: Path) -> None:
    training = TrainingConfig.model_validate(TWO_RANKS)
    for name in ("one", "two"):
        run_accelerate("pooled_worker", spec_in(folder, name, seconds=1.0), name=name, training=training)
        assert all((folder / "workers/worker-0" / f"00000{name == 'two':d}.rank-{rank}").exists() for rank in (0, 1))
    for rank in (0, 1):
        first, second = pids(folder, rank)
        assert first == second


def test_a_request_that_cannot_be_written_leaves_no_process(folder: Path) -> None:
    run(folder, "one")
    shutil.rmtree(folder / "workers")
    (folder / "workers").touch()
    with pytest.raises(OSError, match="workers"):
        run(folder, "two")
    assert not psutil.pid_exists(pids(folder)[0])


def test_an_answer_counts_only_with_its_attempt_and_spec(folder: Path) -> None:
    run(folder, "one")
    answer = folder / "workers/worker-0/000000.done"
    told = json.loads(answer.read_text())
    assert told == {"attempt": 0, "spec_sha256": hash_file(folder / "one_spec.json")}
    process = spawn(["/bin/sleep", "60"], folder / "log", {})
    for change, counts in (({}, True), ({"attempt": 1}, False), ({"spec_sha256": "0"}, False)):
        answer.write_text(json.dumps(told | change))
        assert Request(process, answer, told, is_fresh=True).is_done == counts
    end_groups([process])


def test_a_worker_does_not_run_a_spec_that_was_not_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.runtime.pool.hash_of", lambda spec: "of another content")
    with pytest.raises(WorkerError, match="is not yet the file that was asked for"):
        run(folder, "one")
    assert not (folder / "pids-0").exists()


def test_attempts_are_counted_on_after_a_killed_owner(modules: Path, tmp_path: Path) -> None:
    (tmp_path / "workers" / "worker-11").mkdir(parents=True)
    with worker_pool(str(tmp_path)):
        run(tmp_path, "one")
        assert [worker.name for worker in (tmp_path / "workers").glob("worker-*")] == ["worker-12"]


def test_the_processes_and_their_files_end_with_the_outer_pool(modules: Path, tmp_path: Path) -> None:
    with worker_pool(str(tmp_path)):
        for name in ("one", "two"):  # as the searches of a comparison
            with worker_pool(str(tmp_path / name)):
                run(tmp_path, name)
        assert (tmp_path / "workers").exists()
        assert psutil.pid_exists(pids(tmp_path)[0])
    assert len(set(pids(tmp_path))) == 1
    assert not psutil.pid_exists(pids(tmp_path)[0])
    assert not (tmp_path / "workers").exists()


def test_a_worker_that_was_started_early_takes_the_first_request(folder: Path) -> None:
    training = TrainingConfig.model_validate(ONE_RANK)
    start_pool(training)
    run(folder, "one")
    run_accelerate("pooled_worker", spec_in(folder, "two"), name="two", training=training)
    assert sorted(path.name for path in (folder / "workers").glob("worker-*")) == ["worker-0", "worker-1"]


def test_an_early_worker_killed_before_it_reads_is_replaced(folder: Path) -> None:
    start_pool(TrainingConfig.model_validate(ONE_RANK))
    stopped = workers_of(folder)
    for process in stopped:
        process.suspend()
    threading.Timer(1.0, lambda: [process.kill() for process in stopped]).start()
    run(folder, "one")
    assert len(pids(folder)) == 1
    assert pids(folder)[0] not in [process.pid for process in stopped]


def test_an_early_worker_that_cannot_start_costs_no_request(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setenv("PYTHONPATH", str(folder / "broken"), prepend=os.pathsep)
        (folder / "broken").mkdir()
        (folder / "broken" / "torch.py").write_text("raise ImportError('broken')")
        start_pool(TrainingConfig.model_validate(ONE_RANK))
        psutil.wait_procs(workers_of(folder), timeout=120)
    run(folder, "one")
    assert len(pids(folder)) == 1
