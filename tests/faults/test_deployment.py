"""A deployed search survives preemption, a lost machine and cancellation, against real servers and workers."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from uuid import UUID

import httpx
import pytest
import yaml
from mlflow import MlflowClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from tasks.record.events import champion_of, rounds_of
from tasks.record.journal import History
from tests.faults.chaos import ORPHAN_GRACE_S
from tests.faults.prefect_pool import LOST_AFTER_S, PATIENCE_S, ROOT, Machine, Pool, wait_until
from tests.faults.processes import directory_of, events_of, members_of
from tests.faults.team_servers import Postgres, Team, has_postgres, mlflow_with_users, postgres
from tests.faults.tracking_server import free_port

CONFIG = ROOT / "tests/faults/chaos.yaml"
# Two rounds of five seconds or more, with a checkpoint every quarter of a second or so.
LONG = ("search.compute_budget_epochs=24", "search.max_epochs=48")
# The page's cancellation reaches a worker after ten seconds or more, and finds rounds left to train.
LONGER = ("search.compute_budget_epochs=48", "search.max_epochs=96")
NAME = "msft-search-file/search-process"
NIGHTLY = "msft-search-file/search-nightly"
BOTH = ("--file", "prefect.yaml", "search-process", "search-nightly")
# Where PostgreSQL is not installed, the same is tested on SQLite.
STORE = "PostgreSQL" if has_postgres() else "SQLite"


def nightly_each_moment(storage: Path, overrides: list[str]) -> Path:
    """Write the repository's deployments with the nightly search due every 15 s, on the test's configuration."""
    definition = yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text())
    nightly = next(entry for entry in definition["deployments"] if entry["name"] == "search-nightly")
    nightly["parameters"] = {"config": str(CONFIG), "overrides": overrides}
    (schedule,) = nightly["schedules"]
    del schedule["cron"]
    schedule["interval"] = 15
    path = storage / "prefect.yaml"
    path.write_text(yaml.safe_dump(definition))
    return path


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres | None]:
    with ExitStack() as stack:
        yield stack.enter_context(postgres()) if has_postgres() else None


@pytest.fixture(scope="module")
def starting_team(storage: Path, database: Postgres | None) -> Iterator[Callable[[], Team]]:
    """An MLflow server that starts while Prefect's does."""
    with mlflow_with_users(storage / "mlflow-server", database) as ready:
        yield ready


@pytest.fixture(scope="module")
def pool(storage: Path, database: Postgres | None, starting_team: Callable[[], Team]) -> Iterator[Pool]:
    """A Prefect server that asks for a password, with the deployments of a process pool."""
    port, password = free_port(), f"msft:{secrets.token_hex(12)}"
    told = {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "PREFECT_API_AUTH_STRING": password}
    secret = {"PREFECT_SERVER_API_AUTH_STRING": password, "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5"}
    if database is not None:
        secret |= database.environment("prefect")
        secret["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = "postgresql+asyncpg:///prefect"
    host = Machine(storage, {"PREFECT_API_URL": told["PREFECT_API_URL"]})
    host.start("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui", **secret)

    def answers() -> bool:
        try:
            return httpx.get(f"{told['PREFECT_API_URL']}/health", timeout=5).is_success
        except httpx.HTTPError:
            return False

    settings = {PREFECT_API_URL: told["PREFECT_API_URL"], PREFECT_API_AUTH_STRING: password}
    try:
        wait_until(answers, host.text)
        with temporary_settings(settings), get_client(sync_client=True) as client:
            team = starting_team()
            pool = Pool(client, storage, {**told, **team.environment()}, team)
            overrides = ["output_root=lost", f"tracking.uri={team.uri}", *LONGER]
            nightly_each_moment(storage, overrides)
            pool.deploy(*BOTH)
            yield pool
    finally:
        host.lose()


@pytest.fixture
def new_machine(pool: Pool) -> Iterator[Callable[[], Machine]]:
    pool.forget_due(NIGHTLY)  # a worker of the next test would begin it
    machines: list[Machine] = []

    def new() -> Machine:
        machines.append(pool.new_machine())
        return machines[-1]

    yield new
    for machine in machines:
        machine.lose()


def published(output_root: Path, round_index: int | None = None) -> dict[Path, int]:
    """Return the round's checkpoints, or all rounds', each with the time when its weights were written."""
    which = "*" if round_index is None else f"{round_index:03}"
    pattern = f"chaos-*/rounds/{which}/checkpoints/step-*/model.safetensors"
    return {path: path.stat().st_mtime_ns for path in output_root.glob(pattern)}


def round_of(checkpoint: Path) -> int:
    """Return the index of the round that published the file."""
    return int(checkpoint.parents[2].name)


def is_training(machine: Machine, output_root: Path, round_index: int) -> bool:
    """Return whether the round's worker has trained, has published a checkpoint, and still runs."""
    return (
        any(output_root.glob(f"chaos-*/rounds/{round_index:03}/progress.json"))
        and bool(published(output_root, round_index))
        and any(member.kind == "trainer" for member in members_of(machine.mark))
    )


def was_preempted(output_root: Path, round_index: int) -> bool:
    """Return whether the round's worker reported that it was preempted and saved first."""
    accounts = output_root.glob(f"chaos-*/rounds/{round_index:03}/rollout_failure.json")
    return any(json.loads(account.read_text())["preempted"] for account in accounts)


def assert_completes(pool: Pool, run: UUID, machine: Machine) -> None:
    """The run ends on this machine, after one attempt or more than the first, none of which found the search in use.

    More than one: on a busy machine a heartbeat may be late enough for the automation to start another attempt, which
    waits for the one that works (tasks/record/ownership.py).
    """
    wait_until(lambda: pool.state(run) in ("Completed", "Failed", "Crashed", "Cancelled"), machine.text)
    account = f"{run}\n{pool.history()}\n{machine.text()}"
    assert pool.state(run) == "Completed", account
    assert pool.client.read_flow_run(run).run_count >= 2, account
    assert "BusyError" not in machine.text(), account


def assert_ended_once(output_root: Path) -> None:
    """Every decision is on record once, and the champion is the one that they name."""
    events = events_of(output_root)
    decided = [event.round for event in rounds_of(events)]
    names = [event.kind for event in events if event.kind != "round_decided"]
    state = History.of(events).state
    directory = directory_of(output_root)
    assert state.champion is not None
    assert directory is not None
    assert decided == [0, 1]
    assert names == ["search_started", "champion_crowned"]
    crowned = champion_of(events)
    assert crowned is not None
    assert crowned.champion.key == state.champion.checkpoint
    assert (directory / "champion" / "model.safetensors").is_file()


def registered(pool: Pool) -> list[tuple[str, UUID]]:
    objects = [*pool.client.read_work_pools(), *pool.client.read_deployments(), *pool.client.read_automations()]
    return sorted((str(thing.name), thing.id) for thing in objects)


def test_deploying_again_changes_neither_objects_nor_schedule(pool: Pool) -> None:
    before = registered(pool)
    assert len(before) == 5
    assert not pool.is_on(NIGHTLY)
    pool.switch(NIGHTLY, True)
    said = pool.deploy(*BOTH)
    assert pool.is_on(NIGHTLY)
    pool.switch(NIGHTLY, False)
    assert registered(pool) == before
    assert "created" not in said
    assert f"updated, after {LOST_AFTER_S} s" in said
    assert "nightly of msft-search-file/search-nightly: interval 0:00:15 (Etc/UTC), on" in said


def test_an_overlapping_night_is_skipped_and_searches_queue(pool: Pool) -> None:
    def second_state(name: str) -> str:
        runs = [pool.create_run(name, CONFIG, ()) for _ in range(2)]
        for run in runs:
            pool.client.set_flow_run_state(run, State(type=StateType.PENDING))  # as a worker does
        state = pool.state(runs[1])
        for run in runs:
            pool.client.delete_flow_run(run)
        return state

    assert second_state(NIGHTLY) == "Cancelled"
    assert second_state(NAME) == "AwaitingConcurrencySlot"


def test_a_preempted_run_continues_on_another_machine(pool: Pool, new_machine: Callable[[], Machine]) -> None:
    taken, other = new_machine(), new_machine()
    output_root = pool.storage / "preempted"
    run = pool.create_run(NAME, CONFIG, ("output_root=preempted", *LONG))
    deployments = yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text())["deployments"]
    promised = next(d for d in deployments if d["name"] == "search-docker")["work_pool"]["job_variables"]["env"]

    # In the second round: the attempt that follows then makes its first call with the second round's arguments,
    # and must not be given what the first call of this attempt returned (facts.md, A2).
    first = taken.start("prefect", "flow-run", "execute", str(run), **promised)
    wait_until(lambda: is_training(taken, output_root, 0), taken.text)
    other.start_worker()  # it takes the run over at once, while the first attempt may still be saving
    wait_until(lambda: is_training(taken, output_root, 1), taken.text)
    first.terminate()
    wait_until(lambda: was_preempted(output_root, 1), taken.text)
    assert first.wait(PATIENCE_S) == 0
    wait_until(lambda: not taken.processes(), lambda: str(members_of(taken.mark)), ORPHAN_GRACE_S)
    assert "AwaitingRetry" in pool.states(run)

    assert_completes(pool, run, other)
    # Each attempt after the first was asked for, by the SIGTERM or by the automation.
    assert pool.client.read_flow_run(run).run_count <= 1 + pool.states(run).count("AwaitingRetry")
    assert_ended_once(output_root)


def assert_registered(team: Team, output_root: Path) -> None:
    """The champion is in the registry of the team's MLflow with its files, and no run of the search is open."""
    client = MlflowClient(team.uri)
    version = client.get_model_version_by_alias("msft-chaos", "champion")
    directory = directory_of(output_root)
    assert directory is not None
    assert version.tags["msft.search_id"] == directory.name.removeprefix("chaos-")
    champion = client.get_logged_model(version.source.removeprefix("models:/"))
    assert str(champion.status).endswith("READY")
    assert "model.safetensors" in {file.path for file in client.list_logged_model_artifacts(champion.model_id)}
    assert statuses(team) == {"FINISHED"}


def statuses(team: Team, kind: str = "") -> set[str]:
    """Return the states of all runs in the team's MLflow, or of those of one kind."""
    client = MlflowClient(team.uri)
    chosen = f"tags.`msft.kind` = '{kind}'" if kind else ""
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()], chosen)
    return {run.info.status for run in runs}


def messages(pool: Pool) -> list[str]:
    """Return what the logs of all runs say; the server gives them in pages."""
    logs: list[str] = []
    while page := pool.client.read_logs(offset=len(logs)):
        logs += [log.message for log in page]
    return logs


def assert_nothing_shows(words: tuple[str, ...], pool: Pool, run: UUID) -> None:
    """No word is in a file that servers, workers and searches left, nor in what Prefect's pages show of the run."""
    shown = messages(pool)
    shown += [pool.client.read_flow_run(run).model_dump_json()]
    shown += [pool.client.read_deployment_by_name(NIGHTLY).model_dump_json()]
    files = {}
    for path in pool.storage.rglob("*"):
        with suppress(FileNotFoundError, IsADirectoryError):  # servers come and go with files of their own
            files[path] = path.read_bytes()
    for word in words:
        assert word not in "".join(shown)
        assert [path for path, content in files.items() if word.encode() in content] == []


def scheduled_run(pool: Pool, machine: Machine) -> UUID:
    """Return a run that the schedule has started on the machine; no other follows it."""
    pool.switch(NIGHTLY, True)
    wait_until(lambda: pool.runs(NIGHTLY, "Running") != [], machine.text)
    pool.switch(NIGHTLY, False)
    (run,) = pool.runs(NIGHTLY, "Running")
    return run


def test_a_cancelled_run_ends_and_a_lost_machines_run_moves(
    pool: Pool, new_machine: Callable[[], Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in pool.team.environment().items():
        monkeypatch.setenv(key, value)
    output_root = pool.storage / "lost"
    lost, other = new_machine(), new_machine()
    lost.start_worker()
    wait_until(lambda: "started!" in lost.text(), lost.text)
    idle = lost.processes()

    cancelled = scheduled_run(pool, lost)
    wait_until(lambda: is_training(lost, output_root, 0), lost.text)
    pool.client.set_flow_run_state(cancelled, State(type=StateType.CANCELLING))  # as the page does
    wait_until(lambda: pool.state(cancelled) == "Cancelled" and lost.processes() <= idle, lost.text)
    # Prefect kills a process that has not ended 30 s after its SIGTERM, and one that is killed can say nothing.
    unsaid = {"RUNNING"} if "status code: -9" in lost.text() else set()
    assert statuses(pool.team, "search") in ({"KILLED"}, unsaid or {"KILLED"})
    # A round may have ended before the cancellation came.
    assert statuses(pool.team) <= {"KILLED", "FINISHED"} | unsaid

    # The next scheduled run goes on from there, until its machine is gone.
    kept = published(output_root)
    run = scheduled_run(pool, lost)
    wait_until(lambda: published(output_root).keys() - kept.keys(), lost.text)
    lost.lose()
    now = published(output_root)
    under_way = max(map(round_of, now))  # the rounds before it keep only what is needed
    still = {path: time for path, time in kept.items() if path in now or round_of(path) == under_way}
    assert still.items() <= now.items()
    assert pool.state(run) == "Running"
    other.start_worker()
    wait_until(lambda: "AwaitingRetry" in pool.states(run), other.text)
    assert_completes(pool, run, other)
    assert_ended_once(output_root)
    assert_registered(pool.team, output_root)
    assert "AwaitingRetry" not in pool.states(cancelled), pool.history()
    assert any(message.startswith("decision of round 1: ") for message in messages(pool))
    assert_nothing_shows(pool.team.secrets(), pool, run)
