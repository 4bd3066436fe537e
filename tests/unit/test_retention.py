"""What is removed of decided rounds and of a search that is over, and that it is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tasks import rollback
from tasks.algorithm.state import Champion, CheckpointKey, SearchState
from tasks.contracts import CheckpointRef, SearchRef

STATE = SearchState(
    active=("max",), round=2, checkpoint=CheckpointKey(0, 8), champion=Champion(CheckpointKey(0, 4), 0.5)
)


@pytest.fixture
def search(tmp_path: Path) -> SearchRef:
    """Two decided rounds and one under way, of two checkpoints each."""
    search = SearchRef(
        search_id="",
        name="",
        directory=str(tmp_path),
        tracking_uri="",
        outage_s=0,
        experiment_id="",
        run_id="",
    )
    for round_index in (0, 1, 2):
        for step in (4, 8):
            directory = tmp_path / reference(CheckpointKey(round_index, step)).directory
            directory.mkdir(parents=True)
            (directory / "model.safetensors").write_bytes(bytes(1_500_000))
    return search


def reference(key: CheckpointKey) -> CheckpointRef:
    directory = f"rounds/{key.round:03}/checkpoints/step-{key.step:08}"
    return CheckpointRef(key=key, directory=directory, sha256="", num_bytes=0, cursors={}, published_at_ms=0)


def lie_in(search: SearchRef) -> set[str]:
    root = Path(search.directory, "rounds")
    return {str(path.relative_to(root)) for path in root.glob("*/checkpoints/*")}


def test_what_no_one_can_need_again_is_removed_and_named(
    search: SearchRef, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kept are the start of the next round (0, 8), the champion (0, 4), and all of the round under way."""
    monkeypatch.setattr(rollback, "find_checkpoint", lambda search, key: reference(key))
    monkeypatch.setattr(rollback, "find_whole", lambda search, checkpoint: checkpoint)
    assert rollback.roll_back.fn(search, STATE) == reference(CheckpointKey(0, 8))
    assert lie_in(search) == {
        "000/checkpoints/step-00000004",
        "000/checkpoints/step-00000008",
        "002/checkpoints/step-00000004",
        "002/checkpoints/step-00000008",
    }
    said = "removed 2 checkpoints that nothing can need again (3.0 MB): 001/step-00000004, 001/step-00000008"
    assert said in " ".join(capsys.readouterr().out.split())
    rollback.roll_back.fn(search, STATE)
    assert "removed" not in capsys.readouterr().out


def test_of_a_search_that_is_over_only_the_champion_stays(
    search: SearchRef, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has decided three rounds, so that the last of them is not under way; 0, 8 starts no round any more."""
    over = replace(STATE, round=3, stop_reason="the budget is spent")
    rollback.keep_the_champion(search, over)
    assert lie_in(search) == {"000/checkpoints/step-00000004"}
    assert "removed 5 checkpoints" in " ".join(capsys.readouterr().out.split())
