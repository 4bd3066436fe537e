"""A deployed search survives preemption, a lost machine and cancellation, against a real Prefect server and worker."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from uuid import UUID

import httpx
import psutil
import pytest
import yaml
from mlflow import MlflowClient
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State, StateType
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.algorithm.state import fold
from tests.faults.processes import MARK, directory_of, events_of, members_of

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "tests/faults/chaos.yaml"
# Two rounds of five seconds or more, with a checkpoint every quarter of a second or so.
LONG = ("search.compute_budget_epochs=24", "search.max_epochs=48")
NAME = "msft-search-file/search-process"
# As short as the automation may wait: Prefect's heartbeat comes every 30 s at most often.
LOST_AFTER_S = 45
PATIENCE_S = 300.0  # for a step of seconds, on a machine that others use


def wait_until(
    claim: Callable[[], object], account: Callable[[], str], timeout_s: float = PATIENCE_S
) -> None:
    deadline = time.monotonic() + timeout_s
    while not claim():
        assert time.monotonic() < deadline, f"not in {timeout_s} s:\n{account()}"
        time.sleep(0.1)


class Machine:
    """A computer of the pool: every process that it starts carries its mark; all of them share one storage."""

    def __init__(self, storage: Path, api_url: str) -> None:
        self.mark = uuid.uuid4().hex
        self.storage = storage
        self.log = storage / f"machine-{self.mark}.log"
        self.environment = {
            **os.environ,
            MARK: self.mark,
            "PREFECT_HOME": str(storage / "prefect"),
            "PREFECT_API_URL": api_url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "DO_NOT_TRACK": "1",
            "PYTHONPATH": str(ROOT),
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(storage / "datasets"),
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
    """The server's side: a deployment, its runs and their states."""

    def __init__(self, client: SyncPrefectClient, storage: Path, api_url: str) -> None:
        self.client = client
        self.storage = storage
        self.api_url = api_url

    def deploy(self) -> str:
        command = (
            "flows.cli",
            "deploy",
            "--directory",
            str(self.storage),
            "--lost-after-s",
            str(LOST_AFTER_S),
        )
        machine = Machine(self.storage, self.api_url)
        assert machine.start(*command).wait(PATIENCE_S) == 0, machine.text()
        return machine.text()

    def create_run(self, output_root: str, overrides: Sequence[str] = LONG) -> UUID:
        deployment = self.client.read_deployment_by_name(NAME)
        parameters = {"config": str(CONFIG), "overrides": [f"output_root={output_root}", *overrides]}
        return self.client.create_flow_run_from_deployment(deployment.id, parameters=parameters).id

    def state(self, run: UUID) -> str:
        state = self.client.read_flow_run(run).state
        assert state is not None
        return str(state.name)

    def states(self, run: UUID) -> list[str]:
        return [str(state.name) for state in self.client.read_flow_run_states(run)]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """A Prefect server with the deployment of a process pool."""
    storage = tmp_path_factory.mktemp("storage")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    api_url = f"http://127.0.0.1:{port}/api"
    host = Machine(storage, api_url)
    host.start("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui")

    def answers() -> bool:
        try:
            return httpx.get(f"{api_url}/health", timeout=5).is_success
        except httpx.HTTPError:
            return False

    try:
        wait_until(answers, host.text)
        with temporary_settings({PREFECT_API_URL: api_url}), get_client(sync_client=True) as client:
            pool = Pool(client, storage, api_url)
            pool.deploy()
            yield pool
    finally:
        host.lose()


@pytest.fixture
def new_machine(pool: Pool) -> Iterator[Callable[[], Machine]]:
    machines: list[Machine] = []

    def new() -> Machine:
        machines.append(Machine(pool.storage, pool.api_url))
        return machines[-1]

    yield new
    for machine in machines:
        machine.lose()


def published(output_root: Path, round_index: int) -> dict[Path, int]:
    """Return the round's checkpoints, each with the time when its weights were written."""
    pattern = f"chaos-*/rounds/{round_index:03}/checkpoints/step-*/model.safetensors"
    return {path: path.stat().st_mtime_ns for path in output_root.glob(pattern)}


def is_training(machine: Machine, output_root: Path, round_index: int) -> bool:
    """Say whether the round's worker has made a step, has published a checkpoint, and still runs."""
    return (
        any(output_root.glob(f"chaos-*/rounds/{round_index:03}/progress.json"))
        and bool(published(output_root, round_index))
        and any(member.kind == "trainer" for member in members_of(machine.mark))
    )


def was_preempted(output_root: Path, round_index: int) -> bool:
    """Say whether the round's worker has left word that it was told to end and saved first."""
    accounts = output_root.glob(f"chaos-*/rounds/{round_index:03}/rollout_failure.json")
    return any(json.loads(account.read_text())["preempted"] for account in accounts)


def assert_completes(pool: Pool, run: UUID, machine: Machine) -> None:
    """The run's second attempt, on this machine, is its last."""
    wait_until(lambda: pool.state(run) in ("Completed", "Failed", "Crashed"), machine.text)
    assert pool.state(run) == "Completed", machine.text()
    assert pool.client.read_flow_run(run).run_count == 2
    assert "is in use" not in machine.text()


def assert_ended_once(output_root: Path) -> None:
    """Every decision is on record once, and the champion is the one that they name."""
    events = events_of(output_root)
    decided = [event["round"] for event in events if event["event"] == "round_decided"]
    names = [event["event"] for event in events if event["event"] != "round_decided"]
    state = fold(events)
    directory = directory_of(output_root)
    assert state is not None
    assert state.champion is not None
    assert directory is not None
    assert decided == [0, 1]
    assert names == ["search_started", "champion_crowned"]
    crowned = events[-1]["champion"]
    assert isinstance(crowned, dict)
    assert crowned["key"] == {
        "round": state.champion.checkpoint.round,
        "step": state.champion.checkpoint.step,
    }
    assert (directory / "champion" / "model.safetensors").is_file()


def test_deploying_again_changes_what_is_there_and_adds_nothing(pool: Pool) -> None:
    def registered() -> list[tuple[str, UUID]]:
        objects = [
            *pool.client.read_work_pools(),
            *pool.client.read_deployments(),
            *pool.client.read_automations(),
        ]
        return sorted((str(thing.name), thing.id) for thing in objects)

    before = registered()
    assert len(before) == 3
    said = pool.deploy()
    assert registered() == before
    assert "created" not in said
    assert f"updated, after {LOST_AFTER_S} s" in said


def test_sigterm_saves_and_reschedules_and_another_machine_ends_the_same_run(
    pool: Pool, new_machine: Callable[[], Machine]
) -> None:
    taken, other = new_machine(), new_machine()
    output_root = pool.storage / "preempted"
    run = pool.create_run("preempted")
    deployments = yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text())["deployments"]
    promised = next(d for d in deployments if d["name"] == "search-docker")["work_pool"]["job_variables"][
        "env"
    ]

    # In the second round: the attempt that follows then makes its first call with the second round's arguments,
    # and must not be given what the first call of this attempt returned (facts.md, A2).
    first = taken.start("prefect", "flow-run", "execute", str(run), **promised)
    wait_until(lambda: is_training(taken, output_root, 0), taken.text)
    other.start_worker()  # it takes the run over at once, while the first attempt may still be saving
    wait_until(lambda: is_training(taken, output_root, 1), taken.text)
    first.terminate()
    wait_until(lambda: was_preempted(output_root, 1), taken.text, timeout_s=90)
    assert first.wait(90) == 0
    wait_until(lambda: not taken.processes(), lambda: str(members_of(taken.mark)), timeout_s=10)
    assert "AwaitingRetry" in pool.states(run)

    assert_completes(pool, run, other)
    assert_ended_once(output_root)


def test_a_cancelled_run_leaves_no_process_and_a_lost_machines_run_goes_on_elsewhere(
    pool: Pool, new_machine: Callable[[], Machine]
) -> None:
    output_root = pool.storage / "lost"
    lost, other = new_machine(), new_machine()
    lost.start_worker()
    wait_until(lambda: "started!" in lost.text(), lost.text)
    idle = lost.processes()

    run = pool.create_run("lost")
    wait_until(lambda: is_training(lost, output_root, 0), lost.text)
    pool.client.set_flow_run_state(run, State(type=StateType.CANCELLING))  # as the page does
    wait_until(lambda: pool.state(run) == "Cancelled" and lost.processes() <= idle, lost.text, timeout_s=90)
    tracking = MlflowClient(f"sqlite:///{output_root / 'mlflow.db'}")
    runs = tracking.search_runs([e.experiment_id for e in tracking.search_experiments()])
    assert {run.info.status for run in runs} == {"KILLED"}

    # The next run of the deployment goes on from there, until its machine is gone.
    kept = published(output_root, 0)
    run = pool.create_run("lost")
    wait_until(lambda: len(published(output_root, 0)) > len(kept), lost.text)
    assert kept.items() <= published(output_root, 0).items()
    lost.lose()
    assert pool.state(run) == "Running"
    other.start_worker()
    wait_until(lambda: "AwaitingRetry" in pool.states(run), other.text)
    assert_completes(pool, run, other)
    assert_ended_once(output_root)
