"""Deletion of unneeded checkpoints after a rollback and at the end of a search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tasks import rollback
from tasks.algorithm.state import Champion, CheckpointKey, SearchState
from tasks.contracts import SearchRef
from tasks.errors import CheckpointDamagedError, CheckpointNotFoundError
from tasks.record.paths import checkpoint_directory, round_directory
from tasks.record.rollout import publish_with_manifest, reference_to
from tasks.registry.checkpoints import RoundCheckpoints
from tasks.registry.runs import open_round_run, open_search_run

START, CHAMPION = CheckpointKey(0, 8), CheckpointKey(0, 4)
STATE = SearchState(active=("max",), round=2, checkpoint=START, champion=Champion(CHAMPION, 0.5))
EVERY = {f"{round_index:03}/checkpoints/step-{step:08}" for round_index in (0, 1, 2) for step in (4, 8)}


@pytest.fixture
def search(prepare_root: Callable[[Path], Path], tmp_path: Path) -> SearchRef:
    """Two decided rounds and the current one, two checkpoints each, in MLflow and on disk."""
    root = prepare_root(tmp_path / "searches")
    search = SearchRef(
        search_id="0a1b2c3d", name="kept", directory=str(root / "kept"), tracking_uri=f"sqlite:///{root}/mlflow.db",
        outage_s=0, experiment_id="", run_id="",
    )  # fmt: skip
    Path(search.directory).mkdir()
    search = open_search_run(search, "retention", {}, is_new=True)
    for round_index in (0, 1, 2):
        run_id = open_round_run(search, round_index, ("max",))
        for step in (4, 8):
            directory = checkpoint_directory(round_directory(search.directory, round_index), step)
            meta = {"round": round_index, "step": step, "cursors": {}, "published_at_ms": step}
            contents = {"model.safetensors": [bytes(1_500_000)], "optimizer.safetensors": [bytes(10)]}
            publish_with_manifest(directory, contents, {**meta, "state": ["optimizer.safetensors"]}, 1_500_000)
            reference = reference_to(directory, Path(search.directory))
            RoundCheckpoints(search, run_id).register([reference], [])
    return search


def on_disk(search: SearchRef) -> set[str]:
    root = Path(search.directory, "rounds")
    return {str(path.relative_to(root)) for path in root.glob("*/checkpoints/*")}


def test_a_rollback_deletes_and_names_unneeded_checkpoints(
    search: SearchRef, capsys: pytest.CaptureFixture[str]
) -> None:
    """It keeps the start of the next round (0, 8), the champion (0, 4) and the current round."""
    checkpoint = rollback.roll_back.fn(search, STATE)
    assert checkpoint is not None
    assert checkpoint.key == START
    assert on_disk(search) == EVERY - {"001/checkpoints/step-00000004", "001/checkpoints/step-00000008"}
    shown = " ".join(capsys.readouterr().out.split())
    with_state = Path(search.directory, "rounds").glob("*/checkpoints/*/optimizer.safetensors")
    assert {str(path.parent.relative_to(Path(search.directory, "rounds"))) for path in with_state} == {
        "000/checkpoints/step-00000008", "002/checkpoints/step-00000004", "002/checkpoints/step-00000008"
    }  # fmt: skip
    assert "deleted 2 unneeded checkpoints" in shown
    assert "(3.0 MB): 001/step-00000004, 001/step-00000008" in shown
    rollback.roll_back.fn(search, STATE)
    assert "001/step-00000004" not in capsys.readouterr().out


def test_what_may_be_averaged_keeps_its_weights_to_the_end(search: SearchRef) -> None:
    rollback.roll_back.fn(search, STATE, "soup")
    assert on_disk(search) == EVERY
    early = checkpoint_directory(round_directory(search.directory, 1), 4)
    assert {path.name for path in early.iterdir()} == {"manifest.json", "model.safetensors"}
    assert (checkpoint_directory(round_directory(search.directory, 0), 8) / "optimizer.safetensors").exists()
    rollback.keep_the_champion(search, replace(STATE, round=3, stop_reason="the budget is spent"))
    assert on_disk(search) == {"000/checkpoints/step-00000004"}


def test_a_rollback_to_a_damaged_checkpoint_deletes_nothing(search: SearchRef) -> None:
    weights = checkpoint_directory(round_directory(search.directory, 0), 8) / "model.safetensors"
    weights.write_bytes(bytes(1_499_999) + b"1")
    with pytest.raises(CheckpointDamagedError, match="content differs"):
        rollback.roll_back.fn(search, STATE)
    assert on_disk(search) == EVERY


def test_a_rollback_to_an_unregistered_one_deletes_nothing(search: SearchRef) -> None:
    with pytest.raises(CheckpointNotFoundError):
        rollback.roll_back.fn(search, replace(STATE, checkpoint=CheckpointKey(0, 6)))
    assert on_disk(search) == EVERY


def test_the_end_of_a_search_keeps_only_the_champion(search: SearchRef, capsys: pytest.CaptureFixture[str]) -> None:
    """Three rounds are decided and none is current; (0, 8) starts no further round."""
    rollback.keep_the_champion(search, replace(STATE, round=3, stop_reason="the budget is spent"))
    assert on_disk(search) == {"000/checkpoints/step-00000004"}
    assert "deleted 5 unneeded checkpoints" in " ".join(capsys.readouterr().out.split())
