"""Searches of a comparison: one after another, and several at once in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.comparison import parallel
from tasks.comparison.parallel import Part, gpu_slots, run_in_parallel, run_in_turn
from tests.unit.made_up_findings import arm_of, config_of

CHILD = "tests.unit.child_part"
REPOSITORY = Path(__file__).parents[2]


def parts_of(*seeds: int) -> list[Part]:
    return [Part(arm=arm_of("msft", seed), parent_run_id="run", flow_run_id="flow") for seed in seeds]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def told_by(log: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(log.read_text().splitlines()[0])
    return told


def test_a_failed_search_does_not_stop_the_next() -> None:
    def search(part: Part) -> None:
        if part.arm.seed == 1:
            raise ValueError("broken")

    outcomes = run_in_turn(parts_of(0, 1, 2), search)
    assert [outcome.arm.seed for outcome in outcomes] == [0, 1, 2]
    assert [outcome.error for outcome in outcomes] == ["", "ValueError: broken", ""]


def error_of(status: int, host: str) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", f"http://{host}/api/flow_runs/")
    return httpx.HTTPStatusError(str(status), request=request, response=httpx.Response(status, request=request))


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), error_of(503, "prefect")])
def test_an_outage_of_prefect_is_no_failure_of_a_search(error: Exception) -> None:
    def search(part: Part) -> None:
        raise error

    with temporary_settings({PREFECT_API_URL: "http://prefect/api"}), pytest.raises(type(error)):
        run_in_turn(parts_of(0), search)


@pytest.mark.parametrize("error", [error_of(422, "prefect"), error_of(503, "elsewhere")])
def test_another_http_error_is_a_failure_of_its_search(error: Exception) -> None:
    def search(part: Part) -> None:
        raise error

    with temporary_settings({PREFECT_API_URL: "http://prefect/api"}):
        assert run_in_turn(parts_of(0), search)[0].error.startswith("HTTPStatusError")


def test_a_failed_or_killed_process_does_not_stop_the_others(tmp_path: Path) -> None:
    outcomes = run_in_parallel(parts_of(0, 1, 2, 3), (None, None), tmp_path, CHILD)
    errors = {outcome.arm.seed: outcome.error for outcome in outcomes}
    assert (errors[0], errors[1], errors[3]) == ("", "ValueError: broken", "")
    assert errors[2] == f"its process ended with code -9; its log is {tmp_path / 'tiny-msft-seed-2.log'}"


@pytest.mark.parametrize("slots", [("0,1", "2,3"), ("2,3", "2,3")], ids=["own", "shared"])
def test_parallel_searches_have_gpus_and_a_log_each(tmp_path: Path, slots: tuple[str, ...]) -> None:
    run_in_parallel(parts_of(3, 4), slots, tmp_path, CHILD)
    told = [told_by(tmp_path / f"tiny-msft-seed-{seed}.log") for seed in (3, 4)]
    assert [child["gpus"] for child in told] == list(slots)
    assert {child["part"]["shares_gpus"] for child in told} == {slots[0] == slots[1]}
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_a_process_is_given_the_password_that_dumps_hide(tmp_path: Path) -> None:
    uri = "postgresql://u:secret@h/db"
    (part,) = parts_of(5)
    arm = part.arm.model_copy(update={"config": config_of(seed=5, tracking={"uri": uri})})
    run_in_parallel([part.model_copy(update={"arm": arm})], (None, None), tmp_path, CHILD)
    given = told_by(tmp_path / "tiny-seed-5.log")["part"]
    assert Part.model_validate(given).arm.config.tracking.uri == uri
    assert "secret" not in arm.model_dump_json()


def test_a_signal_ends_all_searches_and_starts_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = [tmp_path / f"tiny-msft-seed-{seed}.log" for seed in (8, 9, 0)]

    def interrupt_when_both_run(seconds: float) -> None:
        if all(log.is_file() and log.read_text() for log in logs[:2]):
            raise KeyboardInterrupt
        time.sleep(seconds)

    monkeypatch.setattr(parallel, "time", SimpleNamespace(sleep=interrupt_when_both_run))
    with pytest.raises(KeyboardInterrupt):
        run_in_parallel(parts_of(8, 9, 0), (None, None), tmp_path, CHILD)
    assert [log.read_text().splitlines()[-1] for log in logs[:2]] == ["saved", "saved"]
    assert not logs[2].exists()


def test_a_search_ends_when_its_comparison_is_gone(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    start = f"""
import json, pathlib, time
from tasks.runtime.processes import start_child
child = start_child({CHILD!r}, json.dumps({{"arm": {{"seed": 8}}}}), pathlib.Path({str(log)!r}), {{}})
print(child.process.pid, flush=True)
time.sleep(60)
"""
    owner = subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    child = psutil.Process(int(owner.stdout.readline()))
    while not (log.is_file() and log.read_text()):  # it is past its imports
        time.sleep(0.05)
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    psutil.wait_procs([child], timeout=30)
    assert not child.is_running()


def test_slots_give_each_search_its_gpus_and_the_cpu_one_search(tmp_path: Path) -> None:
    for index in range(5):
        (tmp_path / f"nvidia{index}").touch()
    one, two = config_of(training={}), config_of(training={"num_processes": 2})
    assert gpu_slots(one, None, tmp_path) == ("0", "1", "2", "3", "4")
    assert gpu_slots(one, 2, tmp_path) == ("0", "1")
    assert gpu_slots(two, None, tmp_path) == ("0,1", "2,3")
    assert gpu_slots(two, 3, tmp_path) == ("0,1", "2,3", "0,1")  # more searches than GPUs share them
    assert gpu_slots(config_of(training={"accelerate_config": "x"}), None, tmp_path) == ("0,1,2,3,4",)
    assert gpu_slots(config_of(training={"num_processes": 8}), None, tmp_path) == (None,)
    assert gpu_slots(config_of(), None, tmp_path) == (None,)
    assert gpu_slots(config_of(), 3, tmp_path) == (None, None, None)
