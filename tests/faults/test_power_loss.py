"""A power loss leaves each published file or folder whole, or none of that name; what was announced is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from tasks.algorithm.state import CheckpointKey
from tasks.commands.export import export_champion
from tasks.comparison.report import write_frames
from tasks.config.schema import SearchConfig
from tasks.contracts import BaseModelRef, ScoreRequest, ScoreSpec, ScoreSplit
from tasks.data.base_model import prepare_base_model
from tasks.data.encoder import Encoder
from tasks.data.tokenization import tokenize_split
from tasks.errors import CheckpointDamagedError
from tasks.record.events import EnvironmentChanged, Event
from tasks.record.journal import append_event, read_events
from tasks.record.paths import checkpoint_directory
from tasks.record.rollout import verify
from tasks.registry.client import client_of
from tasks.report.page import write_page
from tasks.runtime.files import make_folder
from tasks.workers.build_base import build_base
from tasks.workers.score import score
from tasks.workers.training.checkpoint import publish_checkpoint
from tests.conftest import TINY_LLAMA, examples_of
from tests.faults.power_loss import Image, PowerLoss, restore
from tests.unit.made_events import crowned
from tests.unit.made_search import MadeSearch

KEY = CheckpointKey(0, 4)
TENSORS = {name: {"weight": torch.arange(9.0)} for name in ("model.safetensors", "optimizer.safetensors")}
TRAINER = {"cursors": {"max": 3}, "intervals": []}


@dataclass
class Parts:
    """Real parts that the publishers build on."""

    base: BaseModelRef
    encoder: Encoder
    split: ScoreSplit
    patch: pytest.MonkeyPatch


def checkpoint(root: Path, parts: Parts) -> list[str]:
    directory = checkpoint_directory(root / "rounds" / "000", 4)
    publish_checkpoint(directory.parents[1], KEY, TENSORS, TRAINER, 17)
    return [str(directory.relative_to(root))]


def model_config(root: Path) -> SearchConfig:
    mixture = {"sub_datasets": [{"name": "max", "synthetic": {"skill": "max"}}]}
    model = {"from_config": TINY_LLAMA, "tokenizer": "characters"}
    return SearchConfig.model_validate(
        {"name": "x", "model": model, "mixture": mixture, "search": {"max_epochs": 1}, "output_root": str(root)}
    )


def base_model(root: Path, parts: Parts) -> list[str]:
    def in_this_process(module: str, spec: Path, **settings: Any) -> None:
        build_base(spec)

    parts.patch.setattr("tasks.data.base_model.run_module", in_this_process)
    directory = Path(prepare_base_model(model_config(root)).directory)
    return [str(directory.relative_to(root))]


def token_cache(root: Path, parts: Parts) -> list[str]:
    split = tokenize_split(parts.encoder, "max", "train", examples_of("max"), root / "cache", "error")
    return [str(Path(split.directory).relative_to(root))]


def champion(root: Path, parts: Parts) -> list[str]:
    """Export and score a checkpoint, as the scoring worker does."""
    request = score_request(root, parts)
    spec = ScoreSpec(
        search_id="x",
        model=parts.base,
        requests=(request,),
        splits=(parts.split,),
        batch_tokens=512,
        threads=1,
        device="cpu",
        precision="fp32",
        export_directory=str(root / "champion"),
        output_directory=str(root / "test_scores"),
    )
    path = root / "test_scores_spec.json"
    path.write_text(spec.model_dump_json())
    score(path)
    return ["champion", "test_scores/round-000-step-00000000.json"]


def score_request(root: Path, parts: Parts) -> ScoreRequest:
    from safetensors.torch import load_file

    weights = load_file(Path(parts.base.directory, "model.safetensors"))
    directory = checkpoint_directory(root / "rounds" / "000", 0)
    publish_checkpoint(directory.parents[1], CheckpointKey(0, 0), {"model.safetensors": weights}, TRAINER, 17)
    return ScoreRequest(key=CheckpointKey(0, 0), directory=str(directory), sub_datasets=(parts.split.name,))


def exported_champion(root: Path, parts: Parts) -> list[str]:
    search = root / "search"
    search.mkdir()
    append_event(str(search), crowned(CheckpointKey(0, 4)))
    (search / "champion").mkdir()
    for name in ("config.json", "model.safetensors"):
        (search / "champion" / name).write_text(f"content of {name}")
    export_champion(str(search), str(root / "out" / "model"), merge_lora=True)
    return ["out/model"]


def report_page(root: Path, parts: Parts) -> list[str]:
    make_folder(root / "search")
    made = MadeSearch(root / "search", ["a", "b"]).decide({"a": [0.1, 0.2], "b": [0.1, 0.2]})
    return [str(path.relative_to(root)) for path in write_page(str(made.directory))]


def frames(root: Path, parts: Parts) -> list[str]:
    paths = write_frames(root / "comparison", {"runs": pd.DataFrame({"seed": [1, 2]})})
    return [str(path.relative_to(root)) for path in paths]


def mlflow_store(root: Path, parts: Parts) -> list[str]:
    client_of(f"sqlite:///{root / 'searches' / 'mlflow.db'}")
    return ["searches/mlflow.db"]


PUBLISHERS: dict[str, Callable[[Path, Parts], list[str]]] = {
    "checkpoint": checkpoint,
    "base model": base_model,
    "token cache": token_cache,
    "champion and its scores": champion,
    "exported champion": exported_champion,
    "report page": report_page,
    "frames": frames,
    "MLflow store": mlflow_store,
}


@pytest.fixture
def parts(
    tiny_base: BaseModelRef, encoder: Encoder, make_split: Callable[..., ScoreSplit], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Parts]:
    split = make_split("max", "exact_match", examples_of("max", "validation"))
    yield Parts(tiny_base, encoder, split, monkeypatch)
    client_of.cache_clear()


def part_of(image: Image, target: str) -> Image:
    return {name: content for name, content in image.items() if f"{name}/".startswith(f"{target}/")}


def record(publisher: str, folder: Path, parts: Parts) -> tuple[PowerLoss, list[str], Image]:
    """Return what a power loss could leave, the names that were published, and their content at the end."""
    root = folder / "disk"
    root.mkdir()
    loss = PowerLoss(root)
    with loss.recording(parts.patch):
        targets = PUBLISHERS[publisher](root, parts)
    content = {
        str(path.relative_to(root)): path.read_bytes()
        for target in targets
        for path in ([root / target] if (root / target).is_file() else (root / target).rglob("*"))
        if path.is_file()
    }
    return loss, targets, content


def torn(loss: PowerLoss, targets: list[str], content: Image) -> list[Image]:
    """Return the images in which a published name is there and not whole."""
    return [
        image
        for image in loss.images
        if any(part_of(image, target) not in ({}, part_of(content, target)) for target in targets)
    ]


@pytest.mark.parametrize("publisher", PUBLISHERS)
def test_a_power_loss_leaves_nothing_that_looks_whole(publisher: str, tmp_path: Path, parts: Parts) -> None:
    loss, targets, content = record(publisher, tmp_path, parts)
    assert all(part_of(content, target) for target in targets)
    assert torn(loss, targets, content) == []
    for image in loss.at_the_end():
        assert {**content, **image} == image, "what was announced is lost"


@pytest.mark.parametrize("publisher", PUBLISHERS)
def test_the_recorder_finds_what_is_torn_without_sync(publisher: str, tmp_path: Path, parts: Parts) -> None:
    parts.patch.setattr("tasks.runtime.files.sync", lambda path: None)
    loss, targets, content = record(publisher, tmp_path, parts)
    assert torn(loss, targets, content) != []


def test_scores_on_test_are_never_there_without_the_champion(tmp_path: Path, parts: Parts) -> None:
    loss, (exported, scores), content = record("champion and its scores", tmp_path, parts)
    scored = [image for image in loss.images if scores in image]
    assert scored
    assert all(part_of(image, exported) == part_of(content, exported) for image in scored)


def test_a_checkpoint_torn_without_sync_is_refused(tmp_path: Path, parts: Parts) -> None:
    parts.patch.setattr("tasks.runtime.files.sync", lambda path: None)
    loss, (target,), content = record("checkpoint", tmp_path, parts)
    for number, image in enumerate(torn(loss, [target], content)):
        with pytest.raises(CheckpointDamagedError):
            verify(restore(image, tmp_path / str(number)) / target)


def test_the_journal_keeps_every_event_it_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    loss = PowerLoss(root)
    recorded: list[Event] = []
    with loss.recording(monkeypatch):
        for number in range(3):
            note = EnvironmentChanged(differences=(f"event {number}",), numerical_environment={})
            recorded.append(append_event(str(root), note))
            ends = [restore(image, tmp_path / f"{number}-{n}") for n, image in enumerate(loss.images[-3:])]
            for end in ends:
                assert read_events(str(end)) == recorded
