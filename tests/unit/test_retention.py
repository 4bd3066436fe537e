"""What is removed of decided rounds, and that it is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks import registry, rollback
from tasks.algorithm.state import Champion, CheckpointKey, SearchState
from tasks.contracts import CheckpointRef, SearchRef


def reference(key: CheckpointKey) -> CheckpointRef:
    directory = f"rounds/{key.round:03}/checkpoints/step-{key.step:08}"
    return CheckpointRef(key=key, directory=directory, sha256="", num_bytes=0, cursors={}, published_at_ms=0)


def lie_in(root: Path) -> set[str]:
    return {str(path.relative_to(root / "rounds")) for path in root.glob("rounds/*/checkpoints/*")}


def test_what_no_one_can_need_again_is_removed_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kept are the start of the next round (0, 8), the champion (0, 4), and all of the round under way."""
    for round_index in (0, 1, 2):
        for step in (4, 8):
            directory = tmp_path / reference(CheckpointKey(round_index, step)).directory
            directory.mkdir(parents=True)
            (directory / "model.safetensors").write_bytes(bytes(1_500_000))
    monkeypatch.setattr(registry, "find_checkpoint", lambda search, key: reference(key))
    search = SearchRef(
        search_id="",
        name="",
        directory=str(tmp_path),
        tracking_uri="",
        outage_s=0,
        experiment_id="",
        run_id="",
    )
    state = SearchState(
        active=("max",), round=2, checkpoint=CheckpointKey(0, 8), champion=Champion(CheckpointKey(0, 4), 0.5)
    )
    rollback._remove_unneeded(search, state)
    assert lie_in(tmp_path) == {
        "000/checkpoints/step-00000004",
        "000/checkpoints/step-00000008",
        "002/checkpoints/step-00000004",
        "002/checkpoints/step-00000008",
    }
    said = "removed 2 checkpoints that nothing can need again (3.0 MB): 001/step-00000004, 001/step-00000008"
    assert said in " ".join(capsys.readouterr().out.split())
    rollback._remove_unneeded(search, state)
    assert "removed" not in capsys.readouterr().out
