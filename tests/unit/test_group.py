"""The machines of a search find each other by files, and see when one of them is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tasks.config.schema import TrainingConfig
from tasks.errors import BusyError, MachinesError
from tasks.runtime.following import follow
from tasks.runtime.group import ATTEMPT, FOLDER, Attempt, Beat, Group, Heartbeat, heartbeat_of, read_value
from tasks.runtime.machine import free_port, host_name, own_address
from tasks.runtime.pool import worker_pool

HERE: Mapping[str, Any] = {"torch": "2.11"}


def training_of(machines: int = 2, **settings: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({"machines": machines, "silence_s": 1, "join_minutes": 0.02, **settings})


def group_of(folder: Path, machines: int = 2, **settings: Any) -> Group:
    return Group(str(folder), training_of(machines, **settings), HERE)


@contextmanager
def following(folder: Path, rank: int = 1, environment: Mapping[str, Any] = HERE) -> Iterator[Heartbeat]:
    """Answer each attempt from a thread, as a follower does."""
    (folder / FOLDER).mkdir(exist_ok=True)
    is_over = threading.Event()

    def answer() -> None:
        answered = -1
        while not is_over.wait(0.02):
            attempt = read_value(folder / FOLDER / ATTEMPT, Attempt)
            if attempt is not None and attempt.state == "gathering" and attempt.number != answered:
                answered = attempt.number
                heartbeat.tell(attempt=answered, code=None, environment=environment)

    with Heartbeat(folder / FOLDER / heartbeat_of(rank), silence_s=1) as heartbeat:
        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield heartbeat
        finally:
            is_over.set()
            thread.join()


def problem_of(party: Any, timeout_s: float = 10.0) -> str:
    deadline = time.monotonic() + timeout_s
    while not (problem := party.problem()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return str(problem)


def test_an_attempt_begins_when_all_machines_have_answered(tmp_path: Path) -> None:
    group = group_of(tmp_path, 3, join_minutes=1)
    with group.lead(), following(tmp_path, 1), following(tmp_path, 2):
        attempts = [group.gather(tmp_path) for _ in range(2)]
        attempts.append(group_of(tmp_path, 3, join_minutes=1).gather(tmp_path))  # of a search that was started again
        assert [party.attempt.number for party in attempts] == [0, 1, 2]
        assert problem_of(attempts[-1], timeout_s=2.5) == ""
    attempts[-1].close()
    written = read_value(tmp_path / FOLDER / ATTEMPT, Attempt)
    assert (written.number, written.state, written.folder) == (2, "over", str(tmp_path))


def test_a_missing_machine_is_named_after_its_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    group = group_of(tmp_path, 3)
    with group.lead(), following(tmp_path, 1), pytest.raises(MachinesError) as refused:
        group.gather(tmp_path)
    assert "2 of 3; machine 2 is missing after 0.02 minutes" in str(refused.value)
    assert "training.machines=N --accept-changes" in str(refused.value)
    assert f"msft follow {tmp_path} --rank NUMBER" in capsys.readouterr().out
    assert read_value(tmp_path / FOLDER / ATTEMPT, Attempt).state == "over"


def test_a_machine_of_other_versions_is_refused(tmp_path: Path) -> None:
    group = group_of(tmp_path)
    with group.lead(), following(tmp_path, environment={"torch": "2.10"}), pytest.raises(MachinesError) as refused:
        group.gather(tmp_path)
    assert f"machine 1 ({host_name()}) is not like the search's" in str(refused.value)
    assert "torch: was '2.11', is '2.10'" in str(refused.value)


@pytest.mark.parametrize(
    ("lose", "told"),
    [
        (lambda heartbeat: heartbeat.tell(code=143), "ended with code 143"),
        (lambda heartbeat: heartbeat.tell(attempt=-1), "machine 1 has left"),
        (lambda heartbeat: heartbeat._is_over.set(), "has been silent for"),
    ],
)
def test_a_lost_machine_is_seen_by_its_heartbeat(tmp_path: Path, lose: Callable[[Heartbeat], None], told: str) -> None:
    group = group_of(tmp_path, join_minutes=1)
    with group.lead(), following(tmp_path) as heartbeat:
        party = group.gather(tmp_path)
        lose(heartbeat)
        assert told in problem_of(party)


def test_an_attempt_that_is_closed_has_lost_no_machine(tmp_path: Path) -> None:
    group = group_of(tmp_path, join_minutes=1)
    with group.lead(), following(tmp_path) as heartbeat:
        party = group.gather(tmp_path)
        party.close()
        heartbeat.tell(code=1)
        assert problem_of(party, timeout_s=2.0) == ""


def start(folder: Path, is_finished: bool, **settings: Any) -> None:
    follow(str(folder), 1, training_of(**settings), lambda training: HERE, lambda: is_finished)


def test_a_follower_ends_with_its_search(tmp_path: Path) -> None:
    start(tmp_path, is_finished=True)
    assert not (tmp_path / FOLDER / heartbeat_of(1)).exists()


def test_a_follower_without_a_search_ends_after_its_time(tmp_path: Path) -> None:
    with pytest.raises(MachinesError, match=r"no heartbeat of the search for 0\.02 minutes"):
        start(tmp_path, is_finished=False)


def test_a_follower_waits_while_its_search_prepares(tmp_path: Path) -> None:
    ends_at = time.monotonic() + 2.5  # twice its time without a search
    with worker_pool(str(tmp_path), group_of(tmp_path)):
        follow(str(tmp_path), 1, training_of(), lambda training: HERE, lambda: time.monotonic() > ends_at)


def test_two_processes_cannot_have_one_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with following(tmp_path):
        monkeypatch.setenv("MSFT_HOSTNAME", "another")
        with pytest.raises(BusyError, match="rank 1 of"):
            start(tmp_path, is_finished=True)


@pytest.mark.parametrize("host", ["elsewhere", None])
def test_the_rank_of_a_lost_process_is_free(tmp_path: Path, host: str | None) -> None:
    (tmp_path / FOLDER).mkdir()
    lost = Beat(host=host or host_name(), pid=2**22 + 1, count=7)
    (tmp_path / FOLDER / heartbeat_of(1)).write_text(lost.model_dump_json())
    start(tmp_path, is_finished=True)


def test_a_machine_without_the_shared_folder_says_so(tmp_path: Path) -> None:
    group = group_of(tmp_path)

    def gather() -> None:
        with suppress(MachinesError):
            group.gather(tmp_path / "not-mounted")

    gathering = threading.Thread(target=gather)
    with group.lead():
        gathering.start()
        with pytest.raises(MachinesError, match="storage that all machines share"):
            start(tmp_path, is_finished=False)
        gathering.join()


def test_names_and_addresses_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_address()
    monkeypatch.setenv("MSFT_HOSTNAME", "one")
    monkeypatch.setenv("MSFT_ADDRESS", "10.0.0.1")
    assert (host_name(), own_address()) == ("one", "10.0.0.1")
    assert 0 < free_port() < 2**16
