"""Searches of a comparison, one after another and in parallel."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

import pytest
from tqdm import tqdm
from tqdm.contrib.concurrent import ensure_lock

from tasks.comparison.grid import Arm
from tasks.comparison.parallel import lanes, run_side_by_side
from tasks.runtime import launch
from tasks.runtime.gpu_slots import current_lane
from tests.unit.made_up_findings import arm_of, config_of

ARMS = [arm_of("msft", seed) for seed in range(4)]


@pytest.mark.parametrize("gpus", [(None,), (None, None)])
def test_one_failed_search_does_not_lose_the_others(gpus: tuple[None, ...], tmp_path: Path) -> None:
    def search(arm: Arm) -> None:
        if arm.seed == 1:
            raise ValueError("broken")

    outcomes = run_side_by_side(ARMS, search, gpus, tmp_path)
    assert [outcome.arm.seed for outcome in outcomes] == [0, 1, 2, 3]
    assert [outcome.error for outcome in outcomes] == ["", "ValueError: broken", "", ""]


@pytest.mark.parametrize("gpus", [("0,1", "2,3"), ("2,3", "2,3")], ids=["their own", "shared"])
def test_searches_side_by_side_have_a_gpu_and_a_log_each(tmp_path: Path, gpus: tuple[str, ...]) -> None:
    both_run = threading.Barrier(2)
    seen: dict[int, str] = {}
    sharing: set[bool] = set()

    def search(arm: Arm) -> None:
        both_run.wait(30)
        seen[arm.seed] = launch.worker_environment(1)["CUDA_VISIBLE_DEVICES"]
        lane = current_lane()
        assert lane is not None
        sharing.add(lane.shares_gpus)
        logging.getLogger("tasks").info(f"search {arm.seed}")

    run_side_by_side(ARMS, search, gpus, tmp_path)
    assert sorted(seen.values()) == sorted([*gpus, *gpus])
    assert sharing == {gpus[0] == gpus[1]}
    assert os.environ.get("CUDA_VISIBLE_DEVICES") != "0,1"
    for arm in ARMS:
        assert (tmp_path / f"tiny-msft-seed-{arm.seed}.log").read_text() == f"search {arm.seed}\n"


def test_one_search_does_not_take_the_lock_of_bars_away_from_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bar(tqdm):  # type: ignore[misc]
        """A class without a lock of its own, as that of `datasets` is at first."""

    monkeypatch.delattr(tqdm, "_lock", raising=False)
    first_began, second_began, first_ended = threading.Event(), threading.Event(), threading.Event()

    def search(arm: Arm) -> None:
        if arm.seed == 0:
            with ensure_lock(Bar):  # as `datasets` reads files
                first_began.set()
                second_began.wait(30)
            first_ended.set()
        else:
            first_began.wait(30)
            with ensure_lock(Bar):
                second_began.set()
                first_ended.wait(30)
                assert Bar._lock is not None

    outcomes = run_side_by_side(ARMS[:2], search, (None, None), tmp_path)
    assert [outcome.error for outcome in outcomes] == ["", ""]


def test_a_signal_ends_all_workers_and_starts_no_other_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first search is interrupted, as the main thread would be; the second one's worker sleeps.

    That the second one ends early is no failure of its own, and is not told as one.
    """
    spec = tmp_path / "sleep_spec.json"
    started: list[int] = []
    is_running, has_ended = threading.Event(), threading.Event()

    def search(arm: Arm) -> None:
        started.append(arm.seed)
        if arm.seed == 0:
            is_running.wait(30)
            raise KeyboardInterrupt
        is_running.set()
        try:
            launch._run([os.sys.executable, "-c", "import time; time.sleep(60)"], spec, "w", os.environ, None)  # type: ignore[attr-defined]
        except KeyboardInterrupt as error:  # as Prefect does where its client is closed by then
            has_ended.set()
            raise RuntimeError("Cannot send a request, as the client has been closed.") from error

    with pytest.raises(KeyboardInterrupt):
        run_side_by_side(ARMS, search, (None, None), tmp_path)
    assert has_ended.wait(30)
    time.sleep(0.2)  # in which it would be told
    assert "seed 1:" not in capsys.readouterr().out
    assert sorted(started[:2]) == [0, 1]
    assert len(started) <= 3


def test_each_search_gets_its_gpus_and_a_cpu_takes_one_search_unless_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for index in range(5):
        (tmp_path / f"nvidia{index}").touch()
    one, two = config_of(training={}), config_of(training={"num_processes": 2})
    assert lanes(one, None, tmp_path) == ("0", "1", "2", "3", "4")
    assert lanes(one, 2, tmp_path) == ("0", "1")
    assert lanes(two, None, tmp_path) == ("0,1", "2,3")
    assert lanes(two, 3, tmp_path) == ("0,1", "2,3", "0,1")  # told to run more than find their own
    assert lanes(config_of(training={"accelerate_config": "x"}), None, tmp_path) == ("0,1,2,3,4",)
    assert lanes(config_of(training={"num_processes": 8}), None, tmp_path) == (None,)
    assert lanes(config_of(), None, tmp_path) == (None,)
    assert lanes(config_of(), 3, tmp_path) == (None, None, None)
