"""The registry on an SQLite store: checkpoints, their scores and the queries of the rollback."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tasks.algorithm.state import CheckpointKey
from tasks.contracts import (
    CheckpointRef,
    CheckpointScores,
    EvaluationCost,
    IntervalStats,
    RegisteredCheckpoint,
    SearchRef,
    SubDatasetScore,
)
from tasks.errors import CheckpointNotFoundError, DeletedRunError
from tasks.evaluation import curves_of
from tasks.registry.champion import register_champion
from tasks.registry.checkpoints import RoundCheckpoints, accept_path, find_checkpoint, log_scores, with_rows
from tasks.registry.client import client_of
from tasks.registry.runs import log_training, open_round_run, open_search_run
from tasks.report.markdown import ModelCard

NAMES = ("max", "cmp")
DIGESTS = dict.fromkeys(NAMES, "d1")
STAMP_MS = 1_700_000_000_000


@pytest.fixture
def search(prepare_root: Callable[[Path], Path], tmp_path: Path) -> SearchRef:
    root = prepare_root(tmp_path / "searches")
    reference = SearchRef(
        search_id="0a1b2c3d", name="registry", directory=str(root / "registry"),
        tracking_uri=f"sqlite:///{root}/mlflow.db", outage_s=0, experiment_id="", run_id="",
    )  # fmt: skip
    Path(reference.directory).mkdir()
    return open_search_run(reference, "registry", {"seed": 1}, is_new=True)


def checkpoint(step: int, sha256: str = "") -> CheckpointRef:
    return CheckpointRef(
        key=CheckpointKey(0, step), directory=f"rounds/000/checkpoints/step-{step:08d}",
        sha256=sha256 or f"{step:064d}", num_bytes=10, cursors=dict.fromkeys(NAMES, step),
        published_at_ms=STAMP_MS + step,
    )  # fmt: skip


def interval(step: int) -> IntervalStats:
    return IntervalStats(
        key=CheckpointKey(0, step), num_tokens=5, num_completion_tokens=2, num_examples=3, flops=1e5, seconds=0.1,
        learning_rate=1e-3, losses=dict.fromkeys(NAMES, 0.5), batch_hash="ab",
    )  # fmt: skip


def scores(step: int, loss: float = 0.1 + 0.2) -> CheckpointScores:
    each = tuple(
        SubDatasetScore(sub_dataset=name, accuracy=step / 7, loss=loss + i, num_examples=4, correct="0110")
        for i, name in enumerate(NAMES)
    )
    cost = EvaluationCost(num_tokens=7, num_examples=8, flops=1e6 / 3, seconds=0.1)
    return CheckpointScores(key=CheckpointKey(0, step), sha256="", scores=each, cost=cost)


def register(search: SearchRef, *steps: int) -> tuple[RegisteredCheckpoint, ...]:
    run_id = open_round_run(search, 0, NAMES)
    return RoundCheckpoints(search, run_id).register(
        [checkpoint(step) for step in steps], [interval(step) for step in steps]
    )


def client(search: SearchRef) -> MlflowClient:
    return client_of(search.tracking_uri)


def points(search: SearchRef, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client(search).get_metric_history(run_id, key)]


def test_a_registered_checkpoint_is_found_by_its_key(search: SearchRef) -> None:
    (registered,) = register(search, 4)
    assert find_checkpoint(search, CheckpointKey(0, 4)) == registered
    assert registered.model_dump().items() >= checkpoint(4).model_dump().items()


def test_a_missing_checkpoint_names_the_ready_steps(search: SearchRef) -> None:
    register(search, 8, 4)
    with pytest.raises(CheckpointNotFoundError, match="READY steps: 4, 8"):
        find_checkpoint(search, CheckpointKey(0, 6))


def test_only_ready_checkpoints_are_found(search: SearchRef) -> None:
    (registered,) = register(search, 4)
    client(search).finalize_logged_model(registered.model_id, "FAILED")
    with pytest.raises(CheckpointNotFoundError, match="READY steps: none"):
        find_checkpoint(search, CheckpointKey(0, 4))


def test_registering_again_creates_no_model_and_no_point(search: SearchRef) -> None:
    first = register(search, 4, 8)
    assert register(search, 4, 8) == first
    models = client(search).search_logged_models([search.experiment_id])
    assert sorted(model.name for model in models) == ["round-000-step-00000004", "round-000-step-00000008"]
    assert points(search, first[0].run_id, "train/tokens") == [(4, 5.0), (8, 5.0)]


def test_an_unfinished_model_gives_way_to_a_new_one(search: SearchRef) -> None:
    run_id = open_round_run(search, 0, NAMES)
    left = client(search).create_logged_model(
        search.experiment_id, name="round-000-step-00000004", source_run_id=run_id
    )
    (registered,) = register(search, 4)
    models = client(search).search_logged_models([search.experiment_id])
    assert [model.model_id for model in models] == [registered.model_id] != [left.model_id]


def test_a_retrained_checkpoint_replaces_the_damaged_one(search: SearchRef) -> None:
    register(search, 4)
    run_id = open_round_run(search, 0, NAMES)
    RoundCheckpoints(search, run_id).register([checkpoint(4, "f" * 64)], [])
    assert find_checkpoint(search, CheckpointKey(0, 4)).sha256 == "f" * 64
    assert len(client(search).search_logged_models([search.experiment_id])) == 1


def test_scores_are_read_back_in_every_digit(search: SearchRef) -> None:
    (registered,) = register(search, 4)
    assert registered.scores is None
    log_scores(search, registered, scores(4), DIGESTS)
    log_scores(search, registered, scores(4), DIGESTS)  # as after a kill
    found = find_checkpoint(search, CheckpointKey(0, 4)).scores
    assert found is not None
    assert found.cost == scores(4).cost
    by_name = {score.sub_dataset: score for score in found.scores}
    assert by_name == {s.sub_dataset: s.model_copy(update={"correct": ""}) for s in scores(4).scores}
    assert points(search, registered.run_id, "validation/loss/max") == [(4, 0.1 + 0.2)]
    assert {score.correct for score in with_rows(search, registered, found).scores} == {"0110"}
    other = register(search, 8)[0]  # whose rows were never logged, as if somebody had deleted them
    assert with_rows(search, other, found) == found


@pytest.mark.parametrize("by_loss", [True, False])
def test_curves_from_hand_equal_those_from_mlflow(search: SearchRef, by_loss: bool) -> None:
    for registered in register(search, 4, 8):
        log_scores(search, registered, scores(registered.key.step), DIGESTS)
    by_hand = {CheckpointKey(0, step): scores(step) for step in (4, 8)}
    found = {key: find_checkpoint(search, key) for key in by_hand}
    read_back = {key: one.scores for key, one in found.items()}
    with_their_rows = {key: with_rows(search, one, one.scores) for key, one in found.items() if one.scores is not None}
    again = {registered.key: registered.scores for registered in register(search, 4, 8)}
    assert curves_of(by_hand, NAMES, by_loss=by_loss) == curves_of(with_their_rows, NAMES, by_loss=by_loss)
    assert read_back == again


def test_nan_is_never_logged(search: SearchRef) -> None:
    (registered,) = register(search, 4)
    with pytest.raises(AssertionError):
        log_scores(search, registered, scores(4, math.nan), DIGESTS)
    assert find_checkpoint(search, CheckpointKey(0, 4)).scores is None


def test_the_accepted_path_continues_the_curves_of_the_search(search: SearchRef) -> None:
    registered = register(search, 4, 8)
    for each in registered:
        log_scores(search, each, scores(each.key.step), DIGESTS)
    intervals = [interval(step) for step in (4, 8)]
    for _ in range(2):  # again as a resumed search does it
        assert accept_path(search, 0, CheckpointKey(0, 4), intervals) == registered[0].run_id
    assert points(search, search.run_id, "validation/accuracy/cmp") == [(4, 4 / 7)]
    assert points(search, search.run_id, "train/flops") == [(4, 1e5)]
    paths = {m.name: m.tags["msft.path"] for m in client(search).search_logged_models([search.experiment_id])}
    assert list(paths[f"round-000-step-{step:08d}"] for step in (4, 8)) == ["accepted", "discarded"]


def test_a_roll_back_to_an_earlier_round_accepts_nothing(search: SearchRef) -> None:
    register(search, 4)
    accept_path(search, 0, CheckpointKey(1, 4), [interval(4)])
    (model,) = client(search).search_logged_models([search.experiment_id])
    assert model.tags["msft.path"] == "discarded"
    assert points(search, search.run_id, "train/flops") == []


def test_the_champions_model_is_no_checkpoint(search: SearchRef) -> None:
    """It has the tags of its checkpoint, and a finished search that runs again accepts the path again."""
    (registered,) = register(search, 4)
    folder = Path(search.directory, "champion")
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    tags = {"msft.search_id": search.search_id, "msft.round": "0", "msft.step": "4"}
    champion = register_champion(search, folder, registered, ModelCard(front={}, body="", lineage=tags))
    accept_path(search, 0, CheckpointKey(0, 4), [])
    assert find_checkpoint(search, CheckpointKey(0, 4)) == registered
    assert register_champion(search, folder, registered, ModelCard(front={}, body="", lineage=tags)) == champion


def test_a_deleted_run_is_named(search: SearchRef) -> None:
    (registered,) = register(search, 4)
    client(search).delete_run(registered.run_id)
    for call in (
        lambda: open_round_run(search, 0, NAMES),
        lambda: log_training(search, registered.run_id, interval(4), STAMP_MS),
    ):
        with pytest.raises(DeletedRunError, match=f"mlflow runs restore --run-id {registered.run_id}"):
            call()
