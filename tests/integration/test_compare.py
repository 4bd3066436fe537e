"""`msft compare` on real parts: two methods and two seeds of the smallest search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient

from flows.compare import compare_methods
from tasks import training
from tasks.config import SearchConfig
from tasks.errors import IncompleteComparisonError, WorkerError


def runs_of(config: SearchConfig) -> list[Any]:
    uri = f"sqlite:///{Path(config.output_root, 'mlflow.db').resolve()}"
    mlflow.set_tracking_uri(uri)
    client = MlflowClient(uri, uri)
    return list(client.search_runs([client.get_experiment_by_name("msft").experiment_id]))


def test_a_comparison_reports_what_ended_and_run_again_trains_only_what_failed(
    prefect_server: None,
    smoke: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One search fails at first; the second run makes it, and takes the other as it is."""
    search = smoke["search"] | {"max_epochs": 0.5, "compute_budget_epochs": 0.5, "evals_per_epoch": 2}
    sub_datasets = smoke["mixture"]["sub_datasets"][:2]
    config = SearchConfig.model_validate(
        smoke | {"output_root": str(tmp_path), "search": search, "mixture": {"sub_datasets": sub_datasets}}
    )
    real = training.run_accelerate

    def out_of_memory(module: str, spec: Path, **options: Any) -> None:
        if "smoke-msft-" in str(spec):
            raise WorkerError("training", "out of memory", "train.log", retryable=False)
        real(module, spec, **options)

    with monkeypatch.context() as patch:
        patch.setattr(training, "run_accelerate", out_of_memory)
        with pytest.raises(IncompleteComparisonError, match="1 of 2 searches failed"):
            compare_methods(config, ("sft", "msft"), (5,))
    directory = next((tmp_path / "comparisons").iterdir())
    before = pd.read_csv(directory / "runs.csv").set_index("method")
    assert "out of memory" in before.loc["msft", "error"]
    assert before.loc["sft", "train_tokens"] > 0
    log_sizes = {log: log.stat().st_size for log in tmp_path.glob("smoke-sft-*/**/*.log")}

    capsys.readouterr()
    compare_methods(config, ("sft", "msft"), (5,))
    shown = capsys.readouterr().out
    assert "sft, seed 5: has ended before, taken as it is" in shown
    assert "difference to SFT [95 %]" in shown
    assert log_sizes
    assert {log: log.stat().st_size for log in log_sizes} == log_sizes
    assert {path.name for path in directory.iterdir()} >= {
        "config.yaml", "runs.csv", "scores.csv", "summary.csv", "sub_datasets.csv",
        "accuracy_against_flops.png", "accuracy_against_flops.svg",
    }  # fmt: skip
    summary = pd.read_csv(directory / "summary.csv").set_index("method")
    assert summary.loc["msft", "low"] <= summary.loc["msft", "difference"] <= summary.loc["msft", "high"]
    assert len(pd.read_csv(directory / "scores.csv")) == 2 * 2

    runs = runs_of(config)
    parent = next(run for run in runs if run.data.tags["msft.kind"] == "comparison")
    searches = [run for run in runs if run.data.tags["msft.kind"] == "search"]
    assert [run.data.tags["mlflow.parentRunId"] for run in searches] == [parent.info.run_id] * 2
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert parent.data.metrics["sft/mean"] == pytest.approx(summary.loc["sft", "mean"])
    assert parent.data.params["seeds"] == "5"
