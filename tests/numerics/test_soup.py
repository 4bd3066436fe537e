"""The worker that averages checkpoints: the average, its trials, and a worker that starts again in their middle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks.algorithm.state import CheckpointKey
from tasks.contracts import BaseModelRef, CheckpointScores, ScoreRequest, ScoreSplit
from tasks.errors import CheckpointDamagedError
from tasks.record.events import Soup, SoupSpec
from tasks.record.paths import checkpoint_directory
from tasks.record.rollout import verify
from tasks.workers import soup as worker
from tasks.workers.score import score_model
from tasks.workers.train import train
from tests.conftest import examples_of

KEYS = tuple(CheckpointKey(0, step) for step in (9, 4, 0))


@pytest.fixture
def spec_path(
    make_rollout: Callable[..., Path], tiny_base: BaseModelRef, make_split: Callable[..., ScoreSplit], tmp_path: Path
) -> Path:
    """A request to average the three checkpoints of a roll-out with averaged weights, by their loss."""
    rollout = make_rollout("one", learning_rate=1e-2, ema=0.5, method="sft")
    train(rollout)
    requests = tuple(
        ScoreRequest(key=key, directory=str(checkpoint_directory(rollout.parent, key.step)), sub_datasets=("max",))
        for key in KEYS
    )
    output = tmp_path / "soup" / "scores"
    spec = SoupSpec(
        search_id="x", model=tiny_base, requests=requests,
        splits=(make_split("max", "loss", examples_of("max", "validation")),), batch_tokens=512, threads=1,
        device="cpu", precision="fp32", selection="loss", export_directory=None, output_directory=str(output),
    )  # fmt: skip
    output.mkdir(parents=True)
    path = output.with_name("scores_spec.json")
    path.write_text(spec.model_dump_json())
    return path


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[CheckpointKey]:
    """Return the checkpoints that were scored, in their order."""
    keys: list[CheckpointKey] = []

    def score(scorer: Any, splits: Any, key: CheckpointKey, *where: Any) -> None:
        keys.append(key)
        score_model(scorer, splits, key, *where)

    monkeypatch.setattr(worker, "score_model", score)
    return keys


def result(spec_path: Path) -> Soup:
    return Soup.model_validate_json(spec_path.with_name("soup.json").read_text())


def weights(spec_path: Path) -> dict[str, torch.Tensor]:
    return load_file(spec_path.with_name("average") / "model.safetensors")


def test_the_average_is_of_the_members_scored_weights(spec_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter((-1.0, -0.9, -0.95))
    monkeypatch.setattr(worker, "mean_score", lambda found, selection: next(scores))
    worker.cook(spec_path)
    assert result(spec_path).members == KEYS[:2]
    spec = SoupSpec.model_validate_json(spec_path.read_text())
    last, early = (load_file(Path(one.directory) / "average.safetensors") for one in spec.requests[:2])
    assert all(torch.equal(value, (last[name] + early[name]) / 2) for name, value in weights(spec_path).items())
    assert verify(spec_path.with_name("average"))["members"] == [{"round": 0, "step": 9}, {"round": 0, "step": 4}]
    assert result(spec_path).cost.num_examples == 3 * len(examples_of("max", "validation"))


def test_a_worker_that_starts_again_scores_the_missing_trials(spec_path: Path, scored: list[CheckpointKey]) -> None:
    worker.cook(spec_path)
    whole, files = result(spec_path), {path: path.read_bytes() for path in spec_path.parent.glob("scores/*.json")}
    average = weights(spec_path) if whole.is_average else {}
    assert scored == [*KEYS]
    spec_path.with_name("soup.json").unlink()
    (spec_path.parent / "scores" / "round-000-step-00000004.json").unlink()
    worker.cook(spec_path)
    assert scored[3:] == [KEYS[1]]
    assert result(spec_path).trials == whole.trials
    assert average.keys() == (weights(spec_path).keys() if whole.is_average else set())
    loss = [CheckpointScores.model_validate_json(path.read_text()).scores for path in files]
    assert loss == [CheckpointScores.model_validate_json(content).scores for content in files.values()]


def test_scores_of_other_members_are_not_taken(spec_path: Path, scored: list[CheckpointKey]) -> None:
    worker.cook(spec_path)
    spec = SoupSpec.model_validate_json(spec_path.read_text())
    other = spec.model_copy(update={"requests": (spec.requests[1], spec.requests[0], spec.requests[2])})
    spec_path.write_text(other.model_dump_json())
    worker.cook(spec_path)
    assert scored[3:5] == [KEYS[1], KEYS[0]]


def test_a_damaged_checkpoint_is_named(spec_path: Path) -> None:
    spec = SoupSpec.model_validate_json(spec_path.read_text())
    file = Path(spec.requests[1].directory) / "average.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(CheckpointDamagedError, match="restore it from a backup"):
        worker.cook(spec_path)
