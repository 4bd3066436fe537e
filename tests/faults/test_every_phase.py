"""A search whose machine is lost in every one of its phases, in turn, ends as an undisturbed one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from tests.faults.chaos import CONFIG, Undisturbed
from tests.faults.comparison import differences, record_of
from tests.faults.processes import Command

FLOW, BUILD, TRAIN, SCORE = "flows/cli.py", "workers/build_base.py", "workers/train.py", "workers/score.py"
TEST = "test_scores_spec.json"
# Phase, process, function, which of its calls in one process, and on which side of it; in the order of a search.
POINTS = (
    ("start", FLOW, "tasks.base_model:_local_directory", 1, "before"),
    ("model build", BUILD, "os:rename", 1, "before"),
    ("tokenisation", FLOW, "tasks.tokenisation:_publish", 2, "before"),
    ("begun in MLflow, not in the journal", FLOW, "tasks.tracking:log_datasets", 1, "after"),
    ("model load", TRAIN, "tasks.workers.model:load_base", 1, "after"),
    ("training step", TRAIN, "tasks.workers.optimisation:learning_rate_at", 5, "before"),
    ("in an accumulation", TRAIN, "tasks.workers.forward:token_losses", 21, "after"),
    ("checkpoint write", TRAIN, "tasks.workers.checkpoint:save_file", 1, "after"),
    ("hashing of a checkpoint", TRAIN, "tasks.manifest:_describe", 2, "before"),
    ("publication", TRAIN, "tasks.workers.checkpoint:publish_checkpoint", 1, "after"),
    ("evaluation", SCORE, "tasks.workers.scoring:Scorer._gold_passes", 2, "after"),
    ("generation", SCORE, "tasks.workers.scoring:Scorer._generate", 1, "before"),
    ("registration", FLOW, "tasks.registry:register_checkpoint", 2, "after"),
    ("recording of scores", FLOW, "tasks.registry:log_scores", 2, "after"),
    ("decision", FLOW, "tasks.pruning:append_event", 1, "before"),
    ("decision on record", FLOW, "tasks.pruning:append_event", 1, "after"),
    ("rollback", FLOW, "tasks.rollback:find_whole", 1, "after"),
    ("removal of old checkpoints", FLOW, "tasks.rollback:_remove_unneeded", 1, "after"),
    ("champion export", TEST, "tasks.workers.scoring:Scorer.score", 1, "before"),
    ("champion registered, not in the journal", FLOW, "tasks.lifecycle:append_event", 1, "before"),
    ("report", FLOW, "tasks.reporting:curves_frame", 1, "after"),
    ("end of the MLflow run", FLOW, "tasks.tracking:close_search_run", 1, "before"),
)
# Optimizer steps between two evaluations: an epoch of 124 rows in batches of 8.
INTERVAL = 16


@dataclass(frozen=True)
class Disturbed:
    """The search that lost its machine in every phase.

    Attributes:
        codes: exit code of each start; reached: the points in the order they were reached.
        steps: (round, step) of every optimizer step in the order they were taken.
    """

    codes: list[int | None]
    reached: list[str]
    steps: list[tuple[int, int]]
    record: dict[str, Any]


@pytest.fixture(scope="module")
def api_url() -> Iterator[str]:
    """A Prefect server that outlives the searches, so that each start takes seconds."""
    with prefect_test_harness(server_startup_timeout=120):
        yield str(PREFECT_API_URL.value())


@pytest.fixture(scope="module")
def disturbed(api_url: str, tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    folder = tmp_path_factory.mktemp("phases")
    keys = ("name", "process", "place", "call", "when")
    (folder / "points.json").write_text(json.dumps([dict(zip(keys, p, strict=True)) for p in POINTS]))
    codes: list[int | None] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MSFT_POINTS", str(folder))
        patch.setenv("PYTHONPATH", str(Path(__file__).with_name("site")))
        patch.setenv("PREFECT_API_URL", api_url)
        while len(codes) <= len(POINTS) and codes[-1:] != [0]:
            command = Command(CONFIG, folder / "searches", folder / "prefect")
            codes.append(command.wait(300))
            left = command.survivors(30)
            command.kill_all()
            assert left == [], f"after {codes}"
            assert codes[-1] in (-9, 0), command.text()
    reached = (folder / "reached").read_text().splitlines()
    trace = [line.split() for line in (folder / "trace").read_text().splitlines()]
    steps = [(int(round_index), int(step)) for round_index, step in trace]
    return Disturbed(codes, reached, steps, record_of(folder / "searches"))


def test_every_phase_was_reached_and_ended_the_search(disturbed: Disturbed) -> None:
    assert disturbed.reached == [name for name, *_ in POINTS]
    assert disturbed.codes == [-9] * len(POINTS) + [0]


def test_a_search_that_loses_its_machine_in_every_phase_ends_like_an_undisturbed_one(
    disturbed: Disturbed, undisturbed: Undisturbed
) -> None:
    assert differences(undisturbed.record, disturbed.record) == []


def test_at_most_one_interval_is_trained_again_after_a_loss(disturbed: Disturbed) -> None:
    steps = disturbed.steps
    again = [
        (before, after) for before, after in pairwise(steps) if after[0] == before[0] and after <= before
    ]
    assert again, "the search lost its machine while it trained"
    assert max(before[1] - after[1] for before, after in again) < INTERVAL
