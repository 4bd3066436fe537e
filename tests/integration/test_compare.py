"""`msft compare` on real parts: two methods and two seeds of the smallest search."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName

from flows.compare import compare_file, compare_methods
from tasks import training
from tasks.commands.deploy import fill_in_run_number
from tasks.comparison.grid import plan_grid
from tasks.comparison.parallel import Place
from tasks.config.identity import dump_config
from tasks.config.loading import load_config
from tasks.config.schema import SearchConfig
from tasks.errors import IncompleteComparisonError, WorkerError
from tasks.record import ownership
from tasks.record.ownership import directory_of, own_directory
from tests.integration.conftest import REPOSITORY
from tests.integration.test_commands import msft

RUN_ID = "0698fb76-ea9a-7be7-8000-75f2a5a8d2b3"


def runs_of(config: SearchConfig) -> list[Any]:
    uri = f"sqlite:///{Path(config.output_root, 'mlflow.db').resolve()}"
    mlflow.set_tracking_uri(uri)
    client = MlflowClient(uri, uri)
    return list(client.search_runs([client.get_experiment_by_name("msft").experiment_id]))


def parents_of_searches(config: SearchConfig) -> set[UUID]:
    """Return the flow runs that Prefect shows as parents of the msft searches of a configuration."""
    name = FlowRunFilterName(like_=f"{config.name}-msft-")
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=name))
        tasks = [client.read_task_run(run.parent_task_run_id) for run in runs if run.parent_task_run_id]
    return {task.flow_run_id for task in tasks if task.flow_run_id is not None}


def test_a_repeated_comparison_trains_only_what_failed(
    prefect_server: str,
    smoke: dict[str, Any],
    output_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One search fails at first; the second run makes it, in a process of its own, and reuses the other."""
    search = smoke["search"] | {"max_epochs": 0.5, "compute_budget_epochs": 0.5, "evals_per_epoch": 2}
    sub_datasets = smoke["mixture"]["sub_datasets"][:2]
    config = SearchConfig.model_validate(
        smoke | {"output_root": str(output_root), "search": search, "mixture": {"sub_datasets": sub_datasets}}
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
    directory = next((output_root / "comparisons").iterdir())
    before = pd.read_csv(directory / "runs.csv").set_index("method")
    assert "out of memory" in before.loc["msft", "error"]
    assert before.loc["sft", "train_tokens"] > 0
    log_sizes = {log: log.stat().st_size for log in output_root.glob("smoke-sft-*/**/*.log")}

    capsys.readouterr()
    state = compare_methods(config, ("sft", "msft"), (5,), place=Place(parallel=2), return_state=True)
    assert state.is_completed(), state.message
    shown = capsys.readouterr().out
    assert parents_of_searches(config) >= {state.state_details.flow_run_id}, "the process's run is a subflow"
    assert "round 0" in (directory / "logs" / "smoke-msft-seed-5.log").read_text()
    assert "sft, seed 5: has ended before, taken as it is" in shown
    assert "difference to SFT [95 %]" in shown
    assert log_sizes
    assert {log: log.stat().st_size for log in log_sizes} == log_sizes
    assert {path.name for path in directory.iterdir()} >= {
        "config.yaml", "runs.csv", "scores.csv", "summary.csv", "differences.csv", "sub_datasets.csv", "report.md",
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

    file = tmp_path / "smoke.yaml"
    file.write_text(dump_config(config))
    told = msft(
        *("compare", str(file), "--methods", "sft,msft", "--seeds", "5", "--json"),
        home=tmp_path / "prefect",
        PREFECT_API_URL=prefect_server,
    )
    assert told.returncode == 0, told.stderr
    values = json.loads(told.stdout)  # and so nothing else
    assert values["directory"] == str(directory)
    by_method = {row["method"]: row for row in values["summary"]}
    assert by_method["msft"]["difference"] == pytest.approx(summary.loc["msft", "difference"])
    assert by_method["sft"]["difference"] is None
    assert {row["error"] for row in values["runs"]} == {None}


def test_a_rescheduled_comparison_waits_for_a_saving_search(
    prefect_server: str, output_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt before holds the search's directory until this one has found that out."""
    file = str(REPOSITORY / "deployments" / "configs" / "smoke.yaml")
    shorter = ("search.max_epochs=0.5", "search.compute_budget_epochs=0.5", f"output_root={output_root}")
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", RUN_ID)
    (seed,) = fill_in_run_number(["seed={run}"])
    config = load_config(file, [*shorter, seed])
    (arm,) = plan_grid(config, ("sft",)).arms
    with ExitStack() as attempt_before:
        attempt_before.enter_context(own_directory(arm.config))
        waits: list[float] = []

        def save_meanwhile(wait_s: float) -> None:
            waits.append(wait_s)
            attempt_before.close()

        monkeypatch.setattr(ownership, "time", SimpleNamespace(monotonic=time.monotonic, sleep=save_meanwhile))
        state = compare_file(file, ("sft",), control="sft", overrides=(*shorter, "seed={run}"), return_state=True)
    assert state.is_completed(), state.message
    assert len(waits) == 1
    lock = Path(directory_of(arm.config), "lock").read_text()
    assert f"flow run {state.state_details.flow_run_id}" in lock  # the comparison's, which another attempt shares
