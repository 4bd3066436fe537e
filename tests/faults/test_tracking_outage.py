"""MLflow that is away, slow, broken or emptied loses nothing and doubles nothing."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tasks import opening
from tasks.algorithm.state import CheckpointKey
from tasks.contracts import (
    CheckpointRef,
    CheckpointScores,
    EvaluationCost,
    IntervalStats,
    Mixture,
    RolloutSpec,
    SearchRef,
    SubDatasetScore,
)
from tasks.errors import DeletedRunError, TrackingError
from tasks.record.paths import checkpoint_directory
from tasks.record.rollout import intervals_before, reference_to
from tasks.registry import checkpoints as registry
from tasks.registry import client as tracking_client
from tasks.registry import runs as tracking
from tasks.registry.champion import register_champion
from tasks.registry.live import live_pages, record_rollout
from tasks.report.markdown import ModelCard
from tests.faults.comparison import tracked
from tests.faults.tracking_server import FaultyProxy, TrackingServer, free_port, running

STAMP_MS = 1_700_000_000_000
NAMES = ("max", "cmp")


def new_search(uri: str, directory: Path, search_id: str = "0a1b2c3d", outage_s: float = 600.0) -> SearchRef:
    directory.mkdir(exist_ok=True)
    return SearchRef(
        search_id=search_id, name=f"outage-{search_id}", directory=str(directory), tracking_uri=uri, outage_s=outage_s,
        experiment_id="", run_id="",
    )  # fmt: skip


def checkpoint(round_index: int, step: int) -> CheckpointRef:
    return CheckpointRef(
        key=CheckpointKey(round_index, step), directory=f"rounds/000/checkpoints/step-{step:08d}",
        sha256=f"{step:064d}", num_bytes=10, cursors=dict.fromkeys(NAMES, step), published_at_ms=STAMP_MS + step,
    )  # fmt: skip


def scores_at(step: int) -> CheckpointScores:
    each = tuple(
        SubDatasetScore(sub_dataset=name, accuracy=step / 10, loss=1 / step, num_examples=4, correct="0110")
        for name in NAMES
    )
    cost = EvaluationCost(num_tokens=7, num_examples=8, flops=1e6, seconds=0.5)
    return CheckpointScores(key=CheckpointKey(0, step), sha256="", scores=each, cost=cost)


def record_a_round(search: SearchRef, mixture: Mixture) -> SearchRef:
    """Put on record all that a search of one round does, through the functions that its tasks call."""
    search = tracking.open_search_run(search, "outages", {"seed": 1, "training.batch_size": 8}, is_new=True)
    run_id = tracking.open_round_run(search, 0, NAMES)
    tracking.log_mixture(search, run_id, mixture, STAMP_MS)
    checkpoints = registry.RoundCheckpoints(search, run_id)
    for step in (1, 2):
        interval = IntervalStats(
            key=CheckpointKey(0, step), num_tokens=5, num_completion_tokens=2, num_examples=3, flops=1e5,
            seconds=0.1, learning_rate=1e-3, losses=dict.fromkeys(NAMES, 0.5), batch_hash="ab",
        )  # fmt: skip
        (registered,) = checkpoints.register([checkpoint(0, step)], [interval])
        registry.log_scores(search, registered, scores_at(step), dict.fromkeys(NAMES, "d1"))
    found = registry.find_checkpoint(search, CheckpointKey(0, 2))
    assert found.scores is not None
    assert {score.sub_dataset: score.accuracy for score in found.scores.scores} == dict.fromkeys(NAMES, 0.2)
    champion = Path(search.directory, "champion")
    champion.mkdir(exist_ok=True)
    (champion / "config.json").write_text("{}")
    card = ModelCard(front={}, body="", lineage={"msft.search_id": search.search_id})
    register_champion(search, champion, found, card)
    assert registry.accept_path(search, 0, CheckpointKey(0, 1), []) == run_id
    tracking.tag_run(search, search.run_id, {"msft.excluded": "none"})
    tracking.close_round_run(search, run_id, {"msft.decision": "advance"})
    tracking.log_files(search, [champion / "config.json"])
    tracking.close_search_run(search, "FINISHED")
    return search


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    with running(tmp_path_factory.mktemp("mlflow")) as started:
        yield started


@pytest.fixture
def local(prepare_root: Callable[[Path], Path], tmp_path: Path) -> SearchRef:
    prepare_root(tmp_path)
    return new_search(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "search")


@pytest.mark.parametrize("mode", ["500", "refuse", "lost", "slow"])
def test_requests_that_fail_lose_nothing_and_double_nothing(
    server: TrackingServer, mode: str, tmp_path: Path, tiny_mixture: Mixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth of all requests fails; `lost` ones have had their effect, though the client cannot know."""
    # A true answer of a busy machine must come sooner than the client gives up.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10" if mode == "slow" else "60")
    proxy = FaultyProxy(server.uri, share=0.1, seed=1)
    expected_search = new_search(server.uri, tmp_path / "expected", f"{mode}-expected")
    disturbed_search = new_search(proxy.uri, tmp_path / "disturbed", f"{mode}-disturbed")
    expected = record_a_round(expected_search, tiny_mixture)
    proxy.mode = mode
    disturbed = record_a_round(disturbed_search, tiny_mixture)
    proxy.close()
    assert proxy.num_failed >= 3
    client = MlflowClient(server.uri, server.uri)
    told = [tracked(client, search.experiment_id, search.search_id) for search in (expected, disturbed)]
    assert told[0] == told[1]
    assert len(told[0]["models"]) == 3


def test_a_server_that_is_away_is_waited_for(server: TrackingServer, tmp_path: Path, tiny_mixture: Mixture) -> None:
    search = tracking.open_search_run(new_search(server.uri, tmp_path / "search"), "outages", {}, is_new=True)
    server.kill()
    threading.Timer(3.0, server.start).start()
    began = time.monotonic()
    run_id = tracking.open_round_run(search, 0, NAMES)
    assert time.monotonic() - began > 3
    tracking.log_mixture(search, run_id, tiny_mixture, STAMP_MS)


def test_a_short_outage_does_not_hide_the_end_of_a_search(
    server: TrackingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = tracking.open_search_run(new_search(server.uri, tmp_path / "search", "0e0d0e0d"), "ended", {}, is_new=True)
    server.kill()
    threading.Timer(2.0, server.start).start()
    # A server's start takes as long as the patience, on a busy machine longer.
    monkeypatch.setattr(opening, "_PARTING_S", 20 * opening._PARTING_S)
    with pytest.raises(SystemExit), opening.mark_failed_on_error(search, "ended"):
        raise SystemExit(143)
    assert MlflowClient(server.uri).get_run(search.run_id).info.status == "KILLED"


def test_an_outage_without_end_is_named_with_a_fix(tmp_path: Path) -> None:
    uri = f"http://reviewer:s3cret@127.0.0.1:{free_port()}"
    search = new_search(uri, tmp_path / "search", outage_s=2.0)
    with pytest.raises(TrackingError) as caught:
        tracking.open_round_run(search, 0, NAMES)
    assert "reviewer:***@127.0.0.1" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert "run the same command again" in str(caught.value)


def test_a_search_does_not_begin_without_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_START_PATIENCE_S", 1.0)
    search = new_search(f"http://127.0.0.1:{free_port()}", tmp_path / "search")
    with pytest.raises(TrackingError, match="Connection refused"):
        tracking.open_search_run(search, "outages", {}, is_new=True)


def test_a_locked_database_is_waited_for(local: SearchRef, tiny_mixture: Mixture, tmp_path: Path) -> None:
    search = tracking.open_search_run(local, "outages", {}, is_new=True)
    run_id = tracking.open_round_run(search, 0, NAMES)
    lock = sqlite3.connect(tmp_path / "mlflow.db", check_same_thread=False, isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    threading.Timer(8.0, lambda: lock.execute("COMMIT")).start()
    began = time.monotonic()
    tracking.log_mixture(search, run_id, tiny_mixture, STAMP_MS)
    assert time.monotonic() - began > 7
    shares = MlflowClient(search.tracking_uri).get_run(run_id).data.metrics
    assert shares["mixture/examples/max"] == pytest.approx(1 / 3)


def publish(spec: RolloutSpec, step: int) -> None:
    """Put the small files of a published checkpoint where a training worker would."""
    interval = IntervalStats(
        key=CheckpointKey(0, step), num_tokens=5, num_completion_tokens=2, num_examples=3, flops=1e5, seconds=0.1,
        learning_rate=1e-3, losses=dict.fromkeys(NAMES, 0.5), batch_hash="ab",
    )  # fmt: skip
    directory = checkpoint_directory(Path(spec.output_directory), step)
    directory.mkdir(parents=True)
    trainer = {"intervals": [interval.model_dump(mode="json")] if step else []}
    (directory / "trainer_state.json").write_text(json.dumps(trainer))
    manifest = {"round": 0, "step": step, "cursors": {}, "published_at_ms": STAMP_MS + step, "files": {}}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    Path(spec.output_directory, "progress.json").touch()


def test_live_points_are_those_recorded_at_the_end(local: SearchRef, make_rollout: Callable[..., Path]) -> None:
    spec = RolloutSpec.model_validate_json(make_rollout("live").read_text())
    local = local.model_copy(update={"directory": str(Path(spec.output_directory).parents[1])})
    search = tracking.open_search_run(local, "outages", {}, is_new=True)
    publish(spec, 0)
    with live_pages(search, spec) as pages:
        pages.poll()
        publish(spec, 4)
        publish(spec, 5)  # saved on SIGTERM, between two evaluations
    client = MlflowClient(search.tracking_uri)
    shown = tracked(client, search.experiment_id, search.search_id)
    assert [model[0] for model in shown["models"]] == ["round-000-step-00000000", "round-000-step-00000004"]
    assert ["train/loss/max", 4, 0.5] in shown["runs"]["round 0"]["points"]
    directories = [checkpoint_directory(Path(spec.output_directory), step) for step in (0, 4)]
    references = [reference_to(directory, Path(search.directory)) for directory in directories]
    record_rollout(search, spec.mixture, references, intervals_before(directories[1]))
    ended = tracked(client, search.experiment_id, search.search_id)
    points = [point for point in ended["runs"]["round 0"]["points"] if not point[0].startswith("mixture/")]
    assert (ended["models"], points) == (shown["models"], shown["runs"]["round 0"]["points"])


def test_mlflow_that_is_away_does_not_disturb_a_roll_out(
    make_rollout: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    spec = RolloutSpec.model_validate_json(make_rollout("live").read_text())
    publish(spec, 0)
    away = new_search(f"http://127.0.0.1:{free_port()}", Path(spec.output_directory).parents[1], outage_s=600)
    with live_pages(away.model_copy(update={"experiment_id": "0", "run_id": "gone"}), spec) as pages:
        pages.poll()
        pages.poll()
    assert capsys.readouterr().out.count("not shown in MLflow before the end of the roll-out") == 1


def test_a_deleted_run_is_named_and_goes_on_when_restored(local: SearchRef, tiny_mixture: Mixture) -> None:
    search = tracking.open_search_run(local, "outages", {}, is_new=True)
    run_id = tracking.open_round_run(search, 0, NAMES)
    client = MlflowClient(search.tracking_uri)
    client.delete_run(run_id)
    for call in (
        lambda: tracking.open_round_run(search, 0, NAMES),
        lambda: tracking.log_mixture(search, run_id, tiny_mixture, STAMP_MS),
    ):
        with pytest.raises(DeletedRunError, match=f"mlflow runs restore --run-id {run_id}"):
            call()
    client.restore_run(run_id)
    assert tracking.open_round_run(search, 0, NAMES) == run_id


def test_a_store_without_the_resumed_search_is_refused(local: SearchRef) -> None:
    with pytest.raises(TrackingError, match="holds no run of search 0a1b2c3d"):
        tracking.open_search_run(local, "outages", {}, is_new=False)


def test_a_bug_is_not_waited_for(local: SearchRef) -> None:
    def fails(search: SearchRef) -> Any:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        tracking_client.retry_while_unavailable(fails)(local)
