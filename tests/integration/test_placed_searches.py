"""Searches of a comparison placed with a deployment: what counts is their journals, not the states of their runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.states import Completed, Crashed, Running, State

from tasks.comparison import placed
from tasks.comparison.grid import Arm
from tasks.comparison.parallel import Outcome, Part
from tasks.comparison.placed import run_on_deployment
from tasks.config.loading import load_config
from tasks.errors import DeploymentError
from tasks.record.journal import append_event
from tasks.record.ownership import directory_of, own_directory
from tests.unit.made_events import crowned, started
from tests.unit.made_up_findings import config_of

Act = Callable[[SyncPrefectClient, FlowRun, Path], None]


@pytest.fixture(scope="module")
def client(prefect_server: str) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        flow = client.create_flow_from_name("msft-search-file")
        client.create_deployment(flow, name="search-arm")
        yield client


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placed, "_POLL_S", 0.05)
    monkeypatch.setattr(placed, "_REVIVED_WITHIN_S", 1.0)


def parts_in(root: Path, *seeds: int) -> list[Part]:
    arms = [Arm(method="msft", seed=n, config=config_of(seed=n, name="tiny", output_root=str(root))) for n in seeds]
    return [Part(arm=arm, parent_run_id="parent", flow_run_id="") for arm in arms]


def runs_in(client: SyncPrefectClient, root: Path) -> list[FlowRun]:
    return [run for run in client.read_flow_runs() if f"msft-root:{root}" in run.tags]


def crown(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for event in (started(), crowned()):
        append_event(str(directory), event)


def set_state(client: SyncPrefectClient, run: UUID, state: State) -> None:
    client.set_flow_run_state(run, state, force=True)


@contextmanager
def working(client: SyncPrefectClient, root: Path, act: Act) -> Iterator[list[int]]:
    """Let a pretended worker begin each run and act on it; yield how many lived at a time."""
    is_over, lived, begun = threading.Event(), list[int](), set[UUID]()

    def work() -> None:
        with get_client(sync_client=True) as own:
            while not is_over.wait(0.05):
                runs = runs_in(own, root)
                lived.append(len([run for run in runs if run.state is None or not run.state.is_final()]))
                for run in [run for run in runs if run.id not in begun]:
                    begun.add(run.id)
                    set_state(own, run.id, Running())
                    act(own, run, directory_of(load_config(run.parameters["config"])))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield lived
    finally:
        is_over.set()
        thread.join()


def complete(client: SyncPrefectClient, run: FlowRun, directory: Path) -> None:
    crown(directory)
    set_state(client, run.id, Completed())


def place(parts: list[Part], root: Path, at_once: int | None = None) -> list[Outcome]:
    return run_on_deployment(parts, "search-arm", at_once, root / "arms")


def test_searches_are_placed_so_many_at_a_time(client: SyncPrefectClient, tmp_path: Path) -> None:
    with working(client, tmp_path, complete) as lived:
        outcomes = place(parts_in(tmp_path, 0, 1, 2), tmp_path, at_once=1)
    assert [outcome.error for outcome in outcomes] == ["", "", ""]
    runs = runs_in(client, tmp_path)
    assert len(runs) == 3
    assert max(lived) == 1
    assert {run.parameters["parent_run_id"] for run in runs} == {"parent"}


def test_a_journal_counts_more_than_the_state_of_a_run(client: SyncPrefectClient, tmp_path: Path) -> None:
    def act(client: SyncPrefectClient, run: FlowRun, directory: Path) -> None:
        set_state(client, run.id, Crashed())
        threading.Timer(0.4, crown, [directory]).start()  # the automation has given it to another machine

    with working(client, tmp_path, act):
        assert [outcome.error for outcome in place(parts_in(tmp_path, 0), tmp_path)] == [""]


def test_a_run_that_stays_ended_is_a_failure_of_its_search(client: SyncPrefectClient, tmp_path: Path) -> None:
    def act(client: SyncPrefectClient, run: FlowRun, directory: Path) -> None:
        if run.parameters["config"].endswith(f"{directories[0].name}.yaml"):
            set_state(client, run.id, Crashed(message="no machine"))
        else:
            complete(client, run, directory)

    parts = parts_in(tmp_path, 0, 1)
    directories = [directory_of(part.arm.config) for part in parts]
    with working(client, tmp_path, act):
        errors = {outcome.arm.seed: outcome.error for outcome in place(parts, tmp_path)}
    assert "ended as Crashed (no machine), and its journal has no champion" in errors[0]
    assert errors[1] == ""


def test_a_search_that_some_process_still_owns_has_not_failed(client: SyncPrefectClient, tmp_path: Path) -> None:
    (part,) = parts_in(tmp_path, 0)
    began = time.monotonic()

    def own(client: SyncPrefectClient, run: FlowRun, directory: Path) -> None:
        set_state(client, run.id, Crashed())
        with own_directory(part.arm.config):
            time.sleep(2.5)
            crown(directory)

    with working(client, tmp_path, own):
        assert place([part], tmp_path)[0].error == ""
    assert time.monotonic() - began > 2.5


def test_a_comparison_that_starts_again_adopts_its_runs(
    client: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placed, "_POLL_S", None)  # no time to sleep: it ends after its first look
    with pytest.raises(TypeError):
        place(parts_in(tmp_path, 0, 1), tmp_path)
    monkeypatch.setattr(placed, "_POLL_S", 0.05)
    with working(client, tmp_path, complete):
        assert [outcome.error for outcome in place(parts_in(tmp_path, 0, 1), tmp_path)] == ["", ""]
    assert len(runs_in(client, tmp_path)) == 2


def test_an_outage_of_the_server_is_waited_for(
    client: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, failures = SyncPrefectClient.read_flow_run, [httpx.ConnectError("refused")]

    def fail_once(self: SyncPrefectClient, run: UUID) -> FlowRun:
        if failures:
            raise failures.pop()
        return read(self, run)

    monkeypatch.setattr(SyncPrefectClient, "read_flow_run", fail_once)
    with working(client, tmp_path, complete):
        assert [outcome.error for outcome in place(parts_in(tmp_path, 0), tmp_path)] == [""]
    assert failures == []


def test_an_unknown_deployment_is_refused(client: SyncPrefectClient, tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match="msft deploy search-harm"):
        run_on_deployment(parts_in(tmp_path, 0), "search-harm", None, tmp_path)
