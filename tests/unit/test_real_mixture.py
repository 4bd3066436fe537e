"""The comparison on real data collects every finished search's numbers and their environment."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from tasks.config.identity import dump_config
from tasks.config.loading import load_config
from tasks.config.schema import SearchConfig
from tests.benchmarks.real_mixture import CONFIG, collect, copy_comparison, describe, overrides_of, summary_of


def _search(directory: Path, seed: int, accuracy: float) -> None:
    """Write the files of a finished search."""
    config = load_config(str(CONFIG), [f"seed={seed}"])
    (directory / "report").mkdir(parents=True)
    (directory / "journal.jsonl").write_text("")
    (directory / "config.yaml").write_text(dump_config(config))
    rows = [
        {"split": "validation", "sub_dataset": "sciq", "accuracy": 0.1},
        {"split": "test", "sub_dataset": "sciq", "accuracy": accuracy},
        {"split": "test", "sub_dataset": "boolq", "accuracy": accuracy + 0.1},
    ]
    pd.DataFrame(rows).to_csv(directory / "report" / "scores.csv", index=False)
    for name in ("ledger", "decisions"):
        pd.DataFrame([{"round": 0}]).to_csv(directory / "report" / f"{name}.csv", index=False)


def test_every_finished_search_is_collected_with_its_seed(tmp_path: Path) -> None:
    searches = tmp_path / "searches"
    _search(searches / "a-1", seed=1, accuracy=0.5)
    _search(searches / "b" / "a-2", seed=2, accuracy=0.7)
    _search(searches / "mlflow-artifacts" / "run" / "artifacts", seed=1, accuracy=0.5)  # MLflow's copy
    _search(searches / "unfinished", seed=3, accuracy=0.0)
    (searches / "unfinished" / "report" / "scores.csv").unlink()
    merged = collect(searches, tmp_path)
    for name, frame in merged.items():
        assert pd.read_csv(tmp_path / f"{name}.csv").equals(frame)
        assert sorted(set(zip(frame["search"], frame["seed"], strict=True))) == [("a-1", 1), ("a-2", 2)]
    assert sorted(merged) == ["decisions", "ledger", "scores"]
    assert summary_of(merged["scores"])["test_accuracy"].tolist() == [55.0, 75.0]


def test_only_the_comparisons_files_are_copied(tmp_path: Path) -> None:
    searches = tmp_path / "searches"
    _search(searches / "a-1", seed=1, accuracy=0.5)
    for path in ("compare-1/table.csv", "table.csv", "mlflow-artifacts/x/report.csv", "cache/split.json"):
        (searches / path).parent.mkdir(parents=True, exist_ok=True)
        (searches / path).write_text("x")
    copy_comparison(searches, tmp_path)
    copied = [p.relative_to(tmp_path / "comparison") for p in (tmp_path / "comparison").rglob("*.*")]
    assert sorted(map(str, copied)) == ["compare-1/table.csv", "table.csv"]


def test_a_slice_limits_all_splits_and_uses_cpu_settings_on_cpu() -> None:
    for on_cpu, batch_size in ((True, 16), (False, 64)):
        overrides = overrides_of(str(CONFIG), (4, 3, 9), ["training.max_length=128"], on_cpu=on_cpu)
        config = load_config(str(CONFIG), overrides)
        limits = {tuple(s.max_rows.model_dump().values()) for s in config.mixture.sub_datasets}
        assert limits == {(4, 3, 9)}
        assert (config.training.batch_size, config.training.max_length) == (batch_size, 128)
    assert overrides_of(str(CONFIG), None, ["seed=3"], on_cpu=True) == ["seed=3"]


def test_the_environment_names_data_model_and_command(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    raw = load_config(str(CONFIG)).model_dump(mode="json")
    raw["mixture"]["sub_datasets"] = [{"name": "mine", "path": str(tmp_path)}]
    raw["model"] = {"source": "some/model", "revision": "main"}
    found = describe(SearchConfig.model_validate(raw), ["msft", "compare"], 1.26)
    assert json.loads(json.dumps(found)) == found
    assert found["command"] == ["msft", "compare"]
    assert found["model"] == {"source": "some/model", "revision": "main", "sha256": None}
    assert list(found["data"]) == [f"{tmp_path.name}/train.jsonl"]
    assert {"gpus", "versions", "git_commit", "seconds"} <= set(found)
