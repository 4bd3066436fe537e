"""Bad input ends with a message that names the input, got, expected and the fix; finished work is kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from flows.search import msft_search
from tasks.config.schema import SearchConfig
from tasks.errors import DataError, DriftError, ModelError, MsftError, NoDiskSpaceError, SplitOverlapError, WorkerError

ROW = {"prompt": "max 1 2?", "completion": " => 2"}


def write_rows(folder: Path, **splits: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def rows_of(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"prompt": f"max {index} 0?", "completion": f" => {index}"} for index in range(start, start + count)]


def good(folder: Path) -> Path:
    return write_rows(folder, train=rows_of(16), validation=rows_of(8, 16), test=rows_of(8, 24))


def search_on(smoke: dict[str, Any], output_root: Path, *paths: Path, **changes: Any) -> SearchConfig:
    sub_datasets = [{"name": path.name, "path": str(path)} for path in paths]
    short = smoke["search"] | {"max_rounds": 1, "compute_budget_epochs": 1}
    values = smoke | {"output_root": str(output_root), "mixture": {"sub_datasets": sub_datasets}}
    return SearchConfig.model_validate(values | {"search": short} | changes)


def refused(config: SearchConfig, kind: type[MsftError]) -> str:
    with pytest.raises(kind) as caught:
        msft_search(config)
    text = str(caught.value)
    assert "fix: " in text
    return text


@pytest.mark.usefixtures("prefect_server")
class TestBadInput:
    def test_missing_folder(self, smoke: dict[str, Any], output_root: Path, tmp_path: Path) -> None:
        text = refused(search_on(smoke, output_root, tmp_path / "nowhere"), DataError)
        assert "sub-dataset 'nowhere'" in text
        assert "no such file or folder" in text

    def test_empty_sub_dataset(self, smoke: dict[str, Any], output_root: Path, tmp_path: Path) -> None:
        folder = write_rows(tmp_path / "empty", train=[], validation=rows_of(4), test=rows_of(4, 4))
        assert "no rows" in refused(search_on(smoke, output_root, folder), DataError)

    def test_all_labels_masked(self, smoke: dict[str, Any], output_root: Path, tmp_path: Path) -> None:
        folder = write_rows(
            tmp_path / "masked", train=[{"prompt": "a", "completion": " "}], validation=rows_of(4), test=rows_of(4, 4)
        )
        text = refused(search_on(smoke, output_root, folder), DataError)
        assert "row 0" in text
        assert "every label is masked" in text

    def test_prompt_longer_than_the_context(self, smoke: dict[str, Any], output_root: Path, tmp_path: Path) -> None:
        long = {"prompt": "max " + "1 " * 200, "completion": " => 1"}
        folder = write_rows(tmp_path / "long", train=[*rows_of(8), long], validation=rows_of(4, 8), test=rows_of(4, 12))
        text = refused(search_on(smoke, output_root, folder), DataError)
        assert "train row 8" in text
        assert "training.max_length = 64" in text

    def test_choices_without_the_answer(self, smoke: dict[str, Any], output_root: Path, tmp_path: Path) -> None:
        row = {"prompt": "q", "completion": " C", "answer": "C", "choices": ["A", "B"]}
        folder = write_rows(tmp_path / "choices", train=[row], validation=rows_of(4), test=rows_of(4, 4))
        text = refused(search_on(smoke, output_root, folder), DataError)
        assert "['A', 'B']" in text
        assert "'C'" in text

    def test_one_text_in_two_splits(self, smoke: dict[str, Any], output_root: Path, tmp_path: Path) -> None:
        folder = write_rows(tmp_path / "leaky", train=rows_of(8), validation=rows_of(4, 8), test=rows_of(4, 4))
        text = refused(search_on(smoke, output_root, folder), SplitOverlapError)
        assert "leaky/train row 4 = leaky/test row 0" in text

    def test_wrong_model_path(self, smoke: dict[str, Any], output_root: Path, tmp_path: Path) -> None:
        config = search_on(smoke, output_root, good(tmp_path / "good"), model={"source": "./no-model"})
        text = refused(config, ModelError)
        assert "./no-model" in text
        assert "no directory" in text

    def test_model_with_pickled_weights_only(self, smoke: dict[str, Any], output_root: Path, tmp_path: Path) -> None:
        (tmp_path / "pickled").mkdir()
        (tmp_path / "pickled" / "config.json").write_text("{}")
        (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"x")
        config = search_on(smoke, output_root, good(tmp_path / "good"), model={"source": str(tmp_path / "pickled")})
        assert "pickled weights (.bin, .pt) are never loaded" in refused(config, ModelError)

    def test_diverged_training(self, smoke: dict[str, Any], output_root: Path, tmp_path: Path) -> None:
        training = smoke["training"] | {"learning_rate": 1e30, "warmup_steps": 0}
        config = search_on(smoke, output_root, good(tmp_path / "good"), training=training)
        text = refused(config, WorkerError)
        assert "training loss at step" in text
        assert "training.learning_rate" in text
        client = MlflowClient(f"sqlite:///{config.output_root}/mlflow.db")
        runs = client.search_runs([client.get_experiment_by_name("msft").experiment_id])
        assert {run.info.status for run in runs} == {"FAILED"}  # the round that was under way, too

    def test_no_disk_space_keeps_what_was_finished(
        self, smoke: dict[str, Any], output_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The disk seems full to the worker from the second checkpoint on; with room again the search ends."""
        config = search_on(smoke, output_root, good(tmp_path / "good"))
        site = tmp_path / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(
            "import shutil, collections, pathlib\n"
            "usage = collections.namedtuple('usage', 'total used free')\n"
            "real = shutil.disk_usage\n"
            "def full(path):\n"
            "    published = list(pathlib.Path(path).glob('step-*')) if 'checkpoints' in str(path) else []\n"
            "    return usage(1, 1, 10) if published else real(path)\n"
            "shutil.disk_usage = full\n"
        )
        with monkeypatch.context() as patch:
            patch.setenv("PYTHONPATH", str(site))
            text = refused(config, WorkerError)
        assert "no room for a checkpoint" in text
        assert "10 bytes free" in text
        kept = list(Path(config.output_root).glob("smoke-*/rounds/000/checkpoints/*"))
        assert [path.name for path in kept] == ["step-00000000"]
        assert msft_search(config).key.round == 0
        assert NoDiskSpaceError("x", 1, 0).retryable is False


def test_a_moved_search_continues_and_refuses_changed_data(
    prefect_server: str, smoke: dict[str, Any], output_root: Path, tmp_path: Path
) -> None:
    folder = good(tmp_path / "good")
    config = search_on(smoke, output_root, folder)
    first = msft_search(config)
    shutil.move(output_root, tmp_path / "elsewhere")
    moved = config.model_copy(update={"output_root": str(tmp_path / "elsewhere")})
    assert msft_search(moved).key == first.key
    (folder / "train.jsonl").write_text(json.dumps({"prompt": "new", "completion": " x"}) + "\n")
    assert "good/train: was '" in refused(moved, DriftError)
