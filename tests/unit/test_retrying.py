"""Transient failures: a worker reports them, and a task is retried only after one."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.states import Failed

from tasks.errors import (
    CheckpointDamagedError,
    ConfigError,
    NoDiskSpaceError,
    NonFiniteLossError,
    TrackingError,
    WorkerError,
)
from tasks.stage import is_retryable
from tasks.workers.supervisor import PREEMPTED, Preempted, run_worker

# As CUDA's, whose class is torch's; gloo's and NCCL's are plain RuntimeErrors too.
OUT_OF_MEMORY = RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
LOST_RANK = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer")


def account_of(error: BaseException, spec: Path) -> tuple[int, dict[str, Any]]:
    """Return the exit code and the account of a worker that fails with `error`."""

    def fails(spec: Path) -> None:
        raise error

    code = run_worker(fails, spec)
    return code, json.loads(spec.with_name("rollout_failure.json").read_text())


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.delenv("MSFT_OWNER_PID", raising=False)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield tmp_path / "rollout_spec.json"
    for number, handler in before.items():  # a worker has its own
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("error", "may_pass"),
    [
        (OUT_OF_MEMORY, False),
        (MemoryError("out of host memory"), False),
        (NonFiniteLossError(3, float("nan"), ["max"]), False),
        (ConfigError("x.yaml", ["bad"]), False),
        (NoDiskSpaceError("x", 2, 1), False),
        (CheckpointDamagedError("x", ["torn"]), False),
        (KeyError("a bug"), False),
        (OSError(errno.EIO, "Input/output error"), True),
        (ConnectionResetError("peer"), True),
        (TimeoutError("slow file system"), True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_a_worker_says_why_it_failed_and_whether_that_may_pass(
    spec: Path, error: BaseException, may_pass: bool
) -> None:
    code, account = account_of(error, spec)
    assert code == 1
    assert account["retryable"] is may_pass
    assert not account["preempted"]
    assert str(error) in account["error"]
    assert type(error).__name__ in account["traceback"]


def test_a_preempted_worker_says_so_with_a_code_of_its_own(spec: Path) -> None:
    code, account = account_of(Preempted(), spec)
    assert code == PREEMPTED == 143
    assert account["preempted"]


def test_sigterm_preempts_a_worker_without_a_step_loop(spec: Path) -> None:
    def is_told(spec: Path) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it went on")

    assert run_worker(is_told, spec) == PREEMPTED
    assert json.loads(spec.with_name("rollout_failure.json").read_text())["preempted"]


@pytest.mark.parametrize(("world", "may_pass"), [("1", False), ("2", True)])
def test_a_lost_rank_may_pass_where_there_are_several(
    spec: Path, world: str, may_pass: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", world)
    assert account_of(LOST_RANK, spec)[1]["retryable"] is may_pass


def test_the_first_ranks_account_is_kept(spec: Path) -> None:
    account_of(OUT_OF_MEMORY, spec)
    assert "out of memory" in account_of(LOST_RANK, spec)[1]["error"]


@pytest.mark.parametrize(
    ("error", "is_repeated"),
    [
        (WorkerError("roll-out", "killed", "x.log", retryable=True), True),
        (WorkerError("roll-out", "diverged", "x.log", retryable=False), False),
        (TrackingError("http://x", "away for an hour"), False),
        (ValueError("a bug"), False),
    ],
)
def test_a_task_is_repeated_only_where_its_failure_may_pass(error: Exception, is_repeated: bool) -> None:
    state = Failed(data=error)
    assert is_retryable(None, None, state) is is_repeated  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "advice"), [(401, "MLFLOW_TRACKING_PASSWORD"), (403, "MLFLOW_TRACKING_PASSWORD"), (None, "start it")]
)
def test_mlflow_401_suggests_credentials(status: int | None, advice: str) -> None:
    assert advice in str(TrackingError("http://mlflow:5000", "refused", status)).partition("fix:")[2]
