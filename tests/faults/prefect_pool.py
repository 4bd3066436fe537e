"""A pool of workers around one Prefect server: machines that can be lost, deployments, runs and their states."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from uuid import UUID

import psutil
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.sorting import FlowRunSort

from tests.faults.processes import MARK, members_of
from tests.faults.team_servers import Team

ROOT = Path(__file__).resolve().parents[2]
# Prefect's heartbeat comes every 30 s at most often; a busy machine, which sends one late, is not lost.
LOST_AFTER_S = 75
PATIENCE_S = 600.0  # for a step of seconds, on a machine that others use


def wait_until(claim: Callable[[], object], account: Callable[[], str], timeout_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not claim():
        assert time.monotonic() < deadline, f"not in {timeout_s} s:\n{account()}"
        time.sleep(0.1)


class Machine:
    """A computer of the pool: every process that it starts carries its mark; all of them share one storage."""

    def __init__(self, storage: Path, extra: Mapping[str, str]) -> None:
        self.mark = uuid.uuid4().hex
        self.storage = storage
        self.log = storage / f"machine-{self.mark}.log"
        self.environment = {
            **os.environ,
            MARK: self.mark,
            "PREFECT_HOME": str(storage / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_LOGGING_LEVEL": "INFO",  # Prefect's default, which other tests lower for their own process
            "DO_NOT_TRACK": "1",
            "PYTHONPATH": str(ROOT),
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(storage / "datasets"),
            **extra,
        }

    def start(self, *arguments: str, **extra: str) -> subprocess.Popen[bytes]:
        # A shell starts its background jobs with SIGINT ignored, and a worker would not end on SIGTERM then.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=self.storage,
                env={**self.environment, **extra},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start_worker(self) -> subprocess.Popen[bytes]:
        return self.start("prefect", "worker", "start", "--pool", "msft-process", "--type", "process")

    def text(self) -> str:
        return self.log.read_text(errors="replace")[-20_000:] if self.log.exists() else ""

    def processes(self) -> set[psutil.Process]:
        return {member.process for member in members_of(self.mark)}

    def lose(self) -> None:
        """End every process at once, so that none sees another one die."""
        processes = self.processes()
        for action in (psutil.Process.suspend, psutil.Process.kill):
            for process in processes:
                if process.is_running():
                    action(process)
        psutil.wait_procs(processes, timeout=10)


class Pool:
    """The server's side: deployments, their runs and states; a machine gets what `environment` tells its worker."""

    def __init__(self, client: SyncPrefectClient, storage: Path, environment: Mapping[str, str], team: Team) -> None:
        self.client = client
        self.storage = storage
        self.environment = environment
        self.team = team

    def new_machine(self) -> Machine:
        return Machine(self.storage, self.environment)

    def deploy(self, *arguments: str) -> str:
        """Run `msft deploy` and return what it said."""
        places = ("--directory", str(self.storage), "--lost-after-s", str(LOST_AFTER_S))
        machine = self.new_machine()
        assert machine.start("flows.cli", "deploy", *places, *arguments).wait(PATIENCE_S) == 0, machine.text()
        return machine.text()

    def create_run(self, name: str, config: Path, overrides: Sequence[str]) -> UUID:
        parameters = {"config": str(config), "overrides": list(overrides)}
        deployment = self.client.read_deployment_by_name(name)
        return self.client.create_flow_run_from_deployment(deployment.id, parameters=parameters).id

    def state(self, run: UUID) -> str:
        state = self.client.read_flow_run(run).state
        assert state is not None
        return str(state.name)

    def states(self, run: UUID) -> list[str]:
        return [str(state.name) for state in self.client.read_flow_run_states(run)]

    def history(self) -> str:
        """Return the times at which each run of the pool entered its states."""
        runs = self.client.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_ASC)
        return "\n".join(
            f"{run.id}: "
            + ", ".join(f"{s.timestamp:%H:%M:%S} {s.name}" for s in self.client.read_flow_run_states(run.id))
            for run in runs
            if run.deployment_id is not None
        )

    def runs(self, name: str, *states: str) -> list[UUID]:
        """Return the deployment's runs that are in one of the states, in the order in which they were due."""
        runs = self.client.read_flow_runs(
            deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[name.rpartition("/")[2]])),
            sort=FlowRunSort.EXPECTED_START_TIME_ASC,
        )
        return [run.id for run in runs if run.state is not None and run.state.name in states]

    def is_on(self, name: str) -> bool:
        (schedule,) = self.client.read_deployment_by_name(name).schedules
        return schedule.active

    def switch(self, name: str, active: bool) -> None:
        """Turn the deployment's schedule on or off, as the page does."""
        deployment = self.client.read_deployment_by_name(name)
        self.client.update_deployment_schedule(deployment.id, deployment.schedules[0].id, active=active)
        if not active:
            self.forget_due(name)

    def forget_due(self, name: str) -> None:
        """Delete runs that nobody has begun; the scheduler may add one in the moment in which it is turned off."""
        for run in self.runs(name, "Scheduled", "Late"):
            self.client.delete_flow_run(run)
