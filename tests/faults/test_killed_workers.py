"""Workers that are killed are tried again, so often and no more; one that does not end when told is killed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tasks.runtime import processes
from tests.faults.chaos import CONFIG, ORPHAN_GRACE_S, Undisturbed
from tests.faults.comparison import differences, record_of
from tests.faults.prefect_pool import PATIENCE_S
from tests.faults.processes import Command, send

# As `-m flows.cli`, with shorter pauses before a task is tried again; they are read when the tasks are imported.
IMPATIENT = """
import tasks.stage
tasks.stage.RETRY_DELAYS_S = (0.1, 0.1, 0.1)
from flows.cli import main
main()
"""


def next_of(command: Command, kind: str, killed: list[psutil.Process]) -> psutil.Process | None:
    """Return a process of this kind that was not killed yet, None where the command ends before one comes."""
    while command.flow.poll() is None:
        process = command.member(kind)
        if process is not None and process not in killed:
            return process
        time.sleep(0.05)
    return None


def test_a_worker_killed_four_times_ends_the_search(tmp_path: Path) -> None:
    long = ("search.compute_budget_epochs=200", "search.max_epochs=400")
    command = Command(CONFIG, tmp_path / "searches", tmp_path / "prefect", long, program=("-c", IMPATIENT))
    killed: list[psutil.Process] = []
    try:
        while (trainer := next_of(command, "trainer", killed)) is not None:
            send(trainer, "KILL")
            killed.append(trainer)
        assert command.wait(PATIENCE_S) == 1, command.text()
        assert len(killed) == 1 + 3, command.text()
        assert "left no account of why" in command.text()
        assert "run the same command again" in command.text()
        assert command.survivors(ORPHAN_GRACE_S) == []
    finally:
        command.kill_all()


@pytest.mark.parametrize(
    "beside",
    [
        pytest.param("yes", id="beside the roll-out"),
        pytest.param("no", id="after the roll-out", marks=pytest.mark.nightly),
    ],
)
def test_a_killed_scorer_changes_no_decision_and_no_score(
    undisturbed: Undisturbed, tmp_path: Path, beside: str
) -> None:
    way = (f"evaluation.beside_training={beside}",)
    command = Command(CONFIG, tmp_path / "searches", tmp_path / "prefect", way, program=("-c", IMPATIENT))
    try:
        scorer = next_of(command, "scorer", [])
        assert scorer is not None, command.text()
        send(scorer, "KILL")
        assert command.wait(PATIENCE_S) == 0, command.text()
    finally:
        command.kill_all()
    expected = dict(undisturbed.record)
    del expected["runs"]  # whose parameters say how it was scored
    assert differences(expected, record_of(tmp_path / "searches")) == []


# A worker and its child; each says when it is told to end, and goes on for as long as the first argument says.
STUBBORN = """
import os, signal, sys, time
from pathlib import Path

goes_on_s, folder = float(sys.argv[1]), Path(sys.argv[2])
name = "worker" if os.fork() else "child"

def on_signal(number, frame):
    (folder / f"told-{name}").touch()
    time.sleep(goes_on_s)
    (folder / f"saved-{name}").touch()
    os._exit(0)

signal.signal(signal.SIGTERM, on_signal)
(folder / f"ready-{name}").write_text(str(os.getpid()))
while True:
    time.sleep(1)
"""
NAMES = ("worker", "child")


def appear(paths: list[Path]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not all(path.exists() for path in paths) and time.monotonic() < deadline:
        time.sleep(0.05)
    return all(path.exists() for path in paths)


@pytest.fixture
def start_stubborn(tmp_path: Path) -> Callable[[float], subprocess.Popen[bytes]]:
    def start(goes_on_s: float) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", STUBBORN, str(goes_on_s), str(tmp_path)]
        process = subprocess.Popen(command, start_new_session=True)
        assert appear([tmp_path / f"ready-{name}" for name in NAMES])
        return process

    return start


def test_a_worker_that_outlasts_the_grace_dies_with_its_group(
    start_stubborn: Callable[[float], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    process = start_stubborn(3600)
    group = [process.pid, *(child.pid for child in psutil.Process(process.pid).children())]
    began = time.monotonic()
    processes.end_groups([process], grace_s=2.0)
    assert time.monotonic() - began >= 2.0
    assert appear([tmp_path / f"told-{name}" for name in NAMES])
    assert len(group) == 2
    assert process.returncode == -9
    assert not any(works(number) for number in group)
    assert not list(tmp_path.glob("saved-*"))


def test_a_worker_that_ends_within_the_grace_is_let_do_so(
    start_stubborn: Callable[[float], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    process = start_stubborn(1.0)
    processes.end_groups([process], grace_s=PATIENCE_S)
    assert process.returncode == 0
    assert appear([tmp_path / f"saved-{name}" for name in NAMES])


def works(number: int) -> bool:
    """Return whether the process runs and is no zombie."""
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
