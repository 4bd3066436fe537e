"""A search that is killed goes on as if nothing had been, and leaves no process behind."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from tests.faults.chaos import CONFIG, END_GRACE_S, ORPHAN_GRACE_S, Campaign, Undisturbed
from tests.faults.processes import Command, directory_of, send

# A roll-out of minutes with a checkpoint a second or two, so that there is time to interrupt it.
LONG = ("search.compute_budget_epochs=200", "search.max_epochs=400")
START_S = 240.0


def wait_until(claim: Callable[[], object], command: Command) -> None:
    deadline = time.monotonic() + START_S
    while not claim():
        assert command.flow.poll() is None, f"the search has ended:\n{command.text()}"
        assert time.monotonic() < deadline, f"not in {START_S} s:\n{command.text()}"
        time.sleep(0.1)


def published(output_root: Path) -> list[str]:
    return sorted(path.name for path in output_root.glob("chaos-*/rounds/000/checkpoints/step-*"))


def is_replaced(command: Command, kind: str, killed: psutil.Process) -> bool:
    return command.member(kind) not in (None, killed)


@pytest.fixture(scope="module")
def running(prepare_root: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Command]]:
    """The searches that tests of this module have started, all in one output root; the last one may run."""
    root = prepare_root(tmp_path_factory.mktemp("interrupted") / "searches")
    started = [Command(CONFIG, root, root.with_name("prefect"), LONG)]
    yield started
    for command in started:
        command.kill_all()


@pytest.fixture
def training(running: list[Command]) -> Command:
    """A search in its first roll-out that has published two checkpoints; a new one continues where one ended."""
    last = running[-1]
    if last.flow.poll() is not None:
        last = Command(CONFIG, last.output_root, last.output_root.with_name("prefect"), LONG)
        running.append(last)
    before = len(published(last.output_root))
    wait_until(lambda: len(published(last.output_root)) >= before + 2, last)
    return last


@pytest.mark.parametrize("num_kills", [2, pytest.param(30, marks=pytest.mark.nightly)])
def test_a_search_killed_at_random_ends_like_an_undisturbed_one(
    undisturbed: Undisturbed, tmp_path: Path, num_kills: int
) -> None:
    """With a tracking server, which is killed as well; the undisturbed search has a file."""
    rng = random.Random(num_kills)
    campaign = Campaign(CONFIG, tmp_path, rng, num_kills, math.inf, undisturbed, has_server=True)
    report = campaign.run()
    assert report["kills"] == num_kills
    assert report["problems"] == []
    assert [search["differences"] for search in report["searches"]] == [[]] * len(report["searches"])


def test_a_busy_search_directory_is_refused_with_the_owners_name(training: Command) -> None:
    second = Command(CONFIG, training.output_root, training.output_root.with_name("prefect"), LONG)
    try:
        assert second.wait(START_S) == 1
        assert "is in use" in second.text()
        assert f"owner process {training.flow.pid}" in second.text()
        assert training.flow.poll() is None
    finally:
        second.kill_all()


def test_a_killed_launcher_or_server_does_not_end_the_search(training: Command) -> None:
    for kind in ("launcher", "server"):
        killed = training.member(kind)
        assert killed is not None
        send(killed, "KILL")
        wait_until(partial(is_replaced, training, kind, killed), training)
    trainers = [member for member in training.members() if member.kind == "trainer"]
    assert len(trainers) <= 1
    before = len(published(training.output_root))
    wait_until(lambda: len(published(training.output_root)) > before, training)


def test_preemptions_of_the_worker_cost_no_retry(training: Command) -> None:
    """The task may be tried again three times; a fourth preemption would end it if they counted."""
    told = "worker preempted; checkpoint saved, restarting"
    before_all = training.text().count(told)
    for _ in range(4):
        wait_until(lambda: training.member("trainer"), training)
        trainer = training.member("trainer")
        before = len(published(training.output_root))
        wait_until(lambda before=before: len(published(training.output_root)) > before, training)
        assert trainer is not None
        send(trainer, "TERM")
        wait_until(partial(is_replaced, training, "trainer", trainer), training)
    assert training.flow.poll() is None
    assert training.text().count(told) - before_all == 4


def test_ctrl_c_ends_with_130_and_no_process(training: Command) -> None:
    training.flow.send_signal(2)
    assert training.wait(END_GRACE_S) == 130
    assert training.survivors(ORPHAN_GRACE_S) == []
    assert "Traceback" not in training.text()


def test_sigterm_saves_what_was_trained_and_ends_every_process(training: Command) -> None:
    directory = directory_of(training.output_root)
    assert directory is not None
    rollout = directory / "rounds" / "000"
    trained = json.loads((rollout / "progress.json").read_text())["step"]
    training.flow.terminate()
    assert training.wait(END_GRACE_S) == 143
    assert training.survivors(ORPHAN_GRACE_S) == []
    assert "the same command goes on" in training.text()
    assert "Traceback" not in training.text()
    assert json.loads((rollout / "rollout_failure.json").read_text())["preempted"]
    assert int(published(training.output_root)[-1].removeprefix("step-")) >= trained
    client = MlflowClient(f"sqlite:///{training.output_root / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert {run.info.status for run in runs} == {"KILLED"}


def test_every_process_ends_by_itself_when_the_flow_is_killed(training: Command) -> None:
    kinds = {member.kind for member in training.members()}
    assert kinds >= {"flow", "server", "launcher", "trainer"}
    training.flow.kill()
    assert training.wait(ORPHAN_GRACE_S) == -9
    assert training.survivors(ORPHAN_GRACE_S) == []
