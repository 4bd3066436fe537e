"""A search whose machine is lost in every one of its phases, in turn, ends as an undisturbed one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from tests.faults.chaos import CONFIG, ORPHAN_GRACE_S, Undisturbed
from tests.faults.comparison import differences, record_of
from tests.faults.processes import Command

FLOW, BUILD, TRAIN, SCORE = "flows/cli.py", "workers/build_base.py", "workers/train.py", "workers/score.py"
TEST = "test_scores_spec.json"
# What a command that a signal ends gives back.
CODES = {"KILL": -9, "TERM": 143}
# Signal, phase, process, function, which of its calls in one process, and which side of it; in the order of a search.
# KILL is a machine that is lost, TERM one that gives notice: to the process, and to the search that owns it.
POINTS = (
    ("KILL", "start", FLOW, "tasks.data.base_model:_local_directory", 1, "before"),
    ("KILL", "model build", BUILD, "os:rename", 1, "before"),
    ("KILL", "tokenisation", FLOW, "tasks.data.tokenization:_publish", 2, "before"),
    ("TERM", "opening", FLOW, "tasks.registry.points:log_datasets", 1, "after"),
    ("KILL", "begun in MLflow, not in the journal", FLOW, "tasks.registry.points:log_datasets", 1, "after"),
    ("KILL", "model load", TRAIN, "tasks.workers.model:load_base", 1, "after"),
    ("KILL", "training step", TRAIN, "tasks.workers.training.optimization:learning_rate_at", 5, "before"),
    ("KILL", "in an accumulation", TRAIN, "tasks.workers.forward:token_losses", 21, "after"),
    ("TERM", "in an accumulation, told", TRAIN, "tasks.workers.forward:token_losses", 9, "after"),
    ("KILL", "checkpoint write", TRAIN, "tasks.workers.training.checkpoint:save_file", 1, "after"),
    ("KILL", "hashing of a checkpoint", TRAIN, "tasks.record.checkpoints:_describe", 2, "before"),
    (
        "TERM",
        "between two files of a checkpoint",
        TRAIN,
        "tasks.workers.training.checkpoint:save_file",
        1,
        "after",
    ),
    ("KILL", "publication", TRAIN, "tasks.workers.training.checkpoint:publish_checkpoint", 1, "after"),
    ("KILL", "evaluation", SCORE, "tasks.workers.scoring:Scorer._gold_passes", 2, "after"),
    ("TERM", "evaluation, told", SCORE, "tasks.workers.scoring:Scorer._gold_passes", 1, "after"),
    ("KILL", "generation", SCORE, "tasks.workers.scoring:Scorer._generate", 1, "before"),
    ("KILL", "registration", FLOW, "tasks.registry.checkpoints:register_checkpoint", 2, "after"),
    ("KILL", "recording of scores", FLOW, "tasks.registry.checkpoints:log_scores", 2, "after"),
    ("TERM", "decision, told", FLOW, "tasks.pruning:append_event", 1, "before"),
    ("KILL", "decision", FLOW, "tasks.pruning:append_event", 1, "before"),
    ("KILL", "decision on record", FLOW, "tasks.pruning:append_event", 1, "after"),
    ("KILL", "rollback", FLOW, "tasks.rollback:find_whole", 1, "after"),
    ("KILL", "removal of old checkpoints", FLOW, "tasks.rollback:_remove_unneeded", 1, "after"),
    ("KILL", "champion export", TEST, "tasks.workers.scoring:Scorer.score", 1, "before"),
    ("TERM", "champion export, told", TEST, "tasks.workers.scoring:Scorer.score", 1, "before"),
    ("KILL", "champion registered, not in the journal", FLOW, "tasks.champion:append_event", 1, "before"),
    ("KILL", "removal of all but the champion", FLOW, "tasks.champion:keep_the_champion", 1, "before"),
    ("KILL", "report", FLOW, "tasks.reporting:curves_frame", 1, "after"),
    ("KILL", "end of the MLflow run", FLOW, "tasks.registry.runs:close_search_run", 1, "before"),
)
# Optimizer steps between two evaluations: an epoch of 124 rows in batches of 8.
INTERVAL = 16


@dataclass(frozen=True)
class Disturbed:
    """The search that lost its machine in every phase.

    Attributes:
        codes: exit code of each start; reached: the points in the order they were reached.
        steps: (round, step) of every optimizer step in the order they were taken, a list for each start.
        statuses: those of its MLflow runs after each start that was told to end.
    """

    codes: list[int | None]
    reached: list[str]
    steps: list[list[tuple[int, int]]]
    statuses: list[set[str]]
    record: dict[str, Any]


@pytest.fixture(scope="module")
def api_url() -> Iterator[str]:
    """A Prefect server that outlives the searches, so that each start takes seconds."""
    with prefect_test_harness(server_startup_timeout=120):
        yield str(PREFECT_API_URL.value())


@pytest.fixture(scope="module")
def disturbed(api_url: str, tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    folder = tmp_path_factory.mktemp("phases")
    keys = ("signal", "name", "process", "place", "call", "when")
    (folder / "points.json").write_text(json.dumps([dict(zip(keys, p, strict=True)) for p in POINTS]))
    codes: list[int | None] = []
    steps: list[list[tuple[int, int]]] = []
    statuses: list[set[str]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MSFT_POINTS", str(folder))
        patch.setenv("PYTHONPATH", str(Path(__file__).with_name("site")))
        patch.setenv("PREFECT_API_URL", api_url)
        while len(codes) <= len(POINTS) and codes[-1:] != [0]:
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


def test_every_phase_was_reached_and_ended_the_search(disturbed: Disturbed) -> None:
    assert disturbed.reached == [name for _, name, *_ in POINTS]
    assert disturbed.codes == [*(CODES[signal] for signal, *_ in POINTS), 0]


def test_a_search_that_loses_its_machine_in_every_phase_ends_like_an_undisturbed_one(
    disturbed: Disturbed, undisturbed: Undisturbed
) -> None:
    assert differences(undisturbed.record, disturbed.record) == []


def test_at_most_one_interval_is_trained_again_after_a_loss(disturbed: Disturbed) -> None:
    steps = [step for start in disturbed.steps for step in start]
    again = [
        (before, after) for before, after in pairwise(steps) if after[0] == before[0] and after <= before
    ]
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
