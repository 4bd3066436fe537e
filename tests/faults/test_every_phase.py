"""A search whose machine is lost in every one of its phases, in turn, ends as an undisturbed one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.faults.chaos import CONFIG, ORPHAN_GRACE_S, Undisturbed
from tests.faults.comparison import differences, record_of
from tests.faults.crash_points import EVERY, IN_CI, CrashPoint
from tests.faults.processes import Command

# What a command that a signal ends gives back.
CODES = {"KILL": -9, "TERM": 143}
# Optimizer steps between two evaluations: an epoch of 124 rows in batches of 8.
INTERVAL = 16


@dataclass(frozen=True)
class Disturbed:
    """A search that lost its machine at every point.

    Attributes:
        codes: exit code of each start.
        reached: phases of the points, in the order in which they were reached.
        steps: (round, step) of every optimizer step, in the order in which they were taken, for each start.
        statuses: statuses of its MLflow runs after each start that received SIGTERM.
    """

    codes: list[int | None]
    reached: list[str]
    steps: list[list[tuple[int, int]]]
    statuses: list[set[str]]
    record: dict[str, Any]


@pytest.fixture(
    scope="module", params=[pytest.param(IN_CI, id="in CI"), pytest.param(EVERY, id="every", marks=pytest.mark.nightly)]
)
def points(request: pytest.FixtureRequest) -> tuple[CrashPoint, ...]:
    chosen: tuple[CrashPoint, ...] = request.param
    return chosen


@pytest.fixture(scope="module")
def disturbed(
    points: tuple[CrashPoint, ...], prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Disturbed:
    """Start the search until it ends; each start arms the first point that none has reached.

    The Prefect server outlives the searches, so that each start takes seconds.
    """
    folder = tmp_path_factory.mktemp("phases")
    (folder / "points.json").write_text(json.dumps([point._asdict() for point in points]))
    codes: list[int | None] = []
    steps: list[list[tuple[int, int]]] = []
    statuses: list[set[str]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MSFT_POINTS", str(folder))
        patch.setenv("PYTHONPATH", str(Path(__file__).with_name("site")))
        patch.setenv("PREFECT_API_URL", prefect_server)
        while len(codes) <= len(points) and codes[-1:] != [0]:
            command = Command(CONFIG, folder / "searches", folder / "prefect")
            codes.append(command.wait(300))
            left = command.survivors(ORPHAN_GRACE_S)
            command.kill_all()
            assert left == [], f"after {codes}"
            assert codes[-1] in (*CODES.values(), 0), command.text()
            steps.append(steps_in(folder / "trace")[sum(map(len, steps)) :])
            if codes[-1] == CODES["TERM"]:
                statuses.append(statuses_in(folder / "searches"))
    reached = (folder / "reached").read_text().splitlines()
    return Disturbed(codes, reached, steps, statuses, record_of(folder / "searches"))


def steps_in(trace: Path) -> list[tuple[int, int]]:
    lines = [line.split() for line in trace.read_text().splitlines()] if trace.exists() else []
    return [(int(round_index), int(step)) for round_index, step in lines]


def statuses_in(searches: Path) -> set[str]:
    client = MlflowClient(f"sqlite:///{searches / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("msft")
    return {run.info.status for run in client.search_runs([experiment.experiment_id])}


def test_every_phase_was_reached_and_ended_the_search(disturbed: Disturbed, points: tuple[CrashPoint, ...]) -> None:
    assert disturbed.reached == [point.phase for point in points]
    assert disturbed.codes == [*(CODES[point.signal] for point in points), 0]


def test_a_search_lost_in_every_phase_ends_as_undisturbed(disturbed: Disturbed, undisturbed: Undisturbed) -> None:
    assert differences(undisturbed.record, disturbed.record) == []


def test_at_most_one_interval_is_trained_again_after_a_loss(disturbed: Disturbed) -> None:
    steps = [step for start in disturbed.steps for step in start]
    again = [(before, after) for before, after in pairwise(steps) if after[0] == before[0] and after <= before]
    assert again, "the search lost its machine while it trained"
    assert max(before[1] - after[1] for before, after in again) < INTERVAL


def test_no_step_is_trained_again_after_a_notice(disturbed: Disturbed) -> None:
    told = [
        (before[-1], after)
        for code, before, after in zip(disturbed.codes, disturbed.steps, later_steps(disturbed), strict=True)
        if code == CODES["TERM"] and before and after is not None
    ]
    assert told, "the search was told to end while it trained"
    assert all(after > before for before, after in told)


def later_steps(disturbed: Disturbed) -> list[tuple[int, int] | None]:
    """Return the first step that was taken after each start."""
    numbers = range(1, len(disturbed.steps) + 1)
    return [next((start[0] for start in disturbed.steps[n:] if start), None) for n in numbers]


def test_mlflow_holds_no_run_as_running_after_a_notice(disturbed: Disturbed) -> None:
    assert len(disturbed.statuses) == disturbed.codes.count(CODES["TERM"])
    assert set().union(*disturbed.statuses) <= {"KILLED", "FINISHED"}
