"""A roll-out over two machines ends as that of one process, whichever of the two is lost on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tasks.contracts import Mixture, RolloutSpec
from tasks.record.paths import ROLLOUT_RESULT, checkpoint_directory
from tasks.record.rollout import read_progress
from tasks.runtime.group import FOLDER, heartbeat_of
from tasks.workers.train import train
from tests.faults.processes import MARK, members_of

FIRST, LAST = 40, 100
TRAIN = "tasks.workers.train"
PATIENCE_S = 300.0
MakeRollout = Callable[..., Path]


class Machines:
    """Two machines on one host: each process has a host name of its own, and carries the mark."""

    def __init__(self, spec: Path, module: str = TRAIN) -> None:
        self.spec, self.module = spec, module
        self.mark = str(spec)
        self.started: list[subprocess.Popen[bytes]] = []

    def _start(self, part: str, argument: str) -> subprocess.Popen[bytes]:
        names = {"MSFT_HOSTNAME": part, "MSFT_ADDRESS": "127.0.0.1", MARK: self.mark}
        command = [sys.executable, "-m", "tests.faults.machine", part, str(self.spec), argument]
        with self.spec.with_name(f"{part}.log").open("ab") as log:
            process = subprocess.Popen(command, env={**os.environ, **names}, stdout=log, stderr=log)
        self.started.append(process)
        return process

    def lead(self) -> subprocess.Popen[bytes]:
        return self._start("lead", self.module)

    def follow(self) -> subprocess.Popen[bytes]:
        return self._start("follow", "1")

    def text(self, part: str) -> str:
        logs = [self.spec.with_name(f"{part}.log"), self.spec.with_name("rollout.log")]
        return "\n".join(log.read_text() for log in logs if log.exists())

    def wait_for_step(self, step: int) -> None:
        """Wait until the roll-out is beyond a step."""
        deadline = time.monotonic() + PATIENCE_S
        while (read_progress(self.spec.parent) or {"step": 0})["step"] < step:
            assert time.monotonic() < deadline, self.text("lead")
            time.sleep(0.02)

    def end(self) -> None:
        for member in members_of(self.mark):
            member.process.kill()
        for process in self.started:
            process.wait()


@pytest.fixture
def machines(make_rollout: MakeRollout, tiny_mixture: Mixture) -> Iterator[Machines]:
    longer = {"epochs": 22.3, "num_rows": 1600, "num_steps": LAST, "evaluation_offsets": (FIRST, LAST)}
    mixture = tiny_mixture.model_copy(update=longer)
    settings = {"mixture": mixture, "ema": 0.9, "micro_batch_size": 4, "learning_rate": 1e-4}
    torch.set_num_threads(1)
    one = make_rollout("one", **settings)
    train(one)
    pair = Machines(make_rollout("two", **settings, machines=2, silence_s=4, join_minutes=2))
    yield pair
    pair.end()


def assert_as_one_process(machines: Machines) -> None:
    """Compare weights, their average and the optimizer's moments at both evaluations."""
    one = machines.spec.parents[3] / "one" / "rounds" / "000"
    for step in (FIRST, LAST):
        directories = [checkpoint_directory(folder, step) for folder in (one, machines.spec.parent)]
        for file in ("model", "average", "optimizer"):
            left, right = (load_file(directory / f"{file}.safetensors") for directory in directories)
            assert set(left) == set(right)
            for name, value in left.items():
                torch.testing.assert_close(right[name], value, rtol=0, atol=2e-5, msg=f"{file} {name}")


def wait(process: subprocess.Popen[bytes], machines: Machines, part: str, code: int = 0) -> None:
    assert process.wait(PATIENCE_S) == code, machines.text(part)


def test_each_machine_is_lost_once_and_the_end_is_the_same(machines: Machines) -> None:
    leader, follower = machines.lead(), machines.follow()
    machines.wait_for_step(10)
    follower.send_signal(signal.SIGTERM)
    wait(follower, machines, "follow", code=128 + signal.SIGTERM)
    assert not (machines.spec.parents[2] / FOLDER / heartbeat_of(1)).exists()
    again = machines.follow()
    machines.wait_for_step(FIRST + 5)
    leader.kill()
    leader.wait()
    wait(machines.lead(), machines, "lead")
    wait(again, machines, "follow")
    told = machines.text("lead")
    assert "worker preempted; checkpoint saved" in told
    first, second, third = (int(line.split()[3]) for line in told.splitlines() if line.startswith("weights of step"))
    assert first == 0 < second < FIRST == third  # all have saved the step in which the signal came
    assert_as_one_process(machines)


@pytest.mark.nightly
@pytest.mark.parametrize("lost", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_machine_is_waited_for(machines: Machines, lost: signal.Signals) -> None:
    leader, follower = machines.lead(), machines.follow()
    machines.wait_for_step(FIRST + 5)
    whole = [follower.pid]
    if lost == signal.SIGSTOP:  # killed, it takes its processes with it
        whole += [child.pid for child in psutil.Process(follower.pid).children(recursive=True)]
    for number in whole:
        os.kill(number, lost)
    while "worker interrupted; going on from its last checkpoint" not in machines.text("lead"):
        assert leader.poll() is None, machines.text("lead")
        time.sleep(0.1)
    if lost == signal.SIGKILL:
        follower.wait()
        follower = machines.follow()
    else:
        time.sleep(3)  # the next attempt waits for it
        for number in whole:
            os.kill(number, signal.SIGCONT)
    wait(leader, machines, "lead")
    wait(follower, machines, "follow")
    assert_as_one_process(machines)


@pytest.mark.nightly
def test_weights_shared_by_two_machines_are_those_of_one_process(machines: Machines, tmp_path: Path) -> None:
    shipped = Path(__file__).resolve().parents[2] / "deployments" / "accelerate" / "fsdp.yaml"
    accelerate = tmp_path / "fsdp.yaml"
    accelerate.write_text(shipped.read_text().replace("num_machines: 1", "num_machines: 2"))
    spec = RolloutSpec.model_validate_json(machines.spec.read_text())
    training = spec.training.model_copy(update={"accelerate_config": str(accelerate)})
    machines.spec.write_text(spec.model_copy(update={"training": training}).model_dump_json())
    machines.module = "tests.numerics.fsdp_on_cpu"
    leader, follower = machines.lead(), machines.follow()
    wait(leader, machines, "lead")
    wait(follower, machines, "follow")
    assert_as_one_process(machines)
    assert machines.spec.with_name(ROLLOUT_RESULT).exists()
