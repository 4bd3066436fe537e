"""Every method, and a sweep, to their ends on real parts: worker, evaluation, registry, ledger and plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient

from flows.compare import compare_methods
from tasks.algorithm.state import CheckpointKey
from tasks.comparison.grid import Axis
from tasks.config.schema import SearchConfig
from tasks.record.events import RoundDecided, rounds_of
from tasks.record.journal import read_events, read_history
from tasks.report.soup import lineage_of

METHODS = ("forward", "continual_sft", "sro_sft", "soft_sro_sft", "dynamix_sft", "ies")


def tiny(smoke: dict[str, Any], output_root: Path, **search: Any) -> SearchConfig:
    """Two sub-datasets and one epoch of 10 steps, scored twice."""
    search = smoke["search"] | {"max_epochs": 1, "compute_budget_epochs": 0.5} | search
    sub_datasets = smoke["mixture"]["sub_datasets"][:2]
    return SearchConfig.model_validate(
        smoke | {"output_root": str(output_root), "search": search, "mixture": {"sub_datasets": sub_datasets}}
    )


def rounds_in(runs: pd.DataFrame, method: str) -> list[RoundDecided]:
    directory = runs.set_index("method").loc[method, "directory"]
    return rounds_of(read_events(str(directory)))


def test_every_method_ends_with_a_champion_within_the_budget(
    prefect_server: str, smoke: dict[str, Any], output_root: Path
) -> None:
    config = tiny(smoke, output_root, champion="soup")
    compare_methods(config, METHODS, (5,), "forward")
    (directory,) = (output_root / "comparisons").iterdir()
    runs = pd.read_csv(directory / "runs.csv")
    assert list(runs["method"]) == list(METHODS)
    assert runs["error"].isna().all()
    assert runs["test_accuracy"].between(0, 1).all()
    budget = 80  # rows of one epoch of the mixture
    for method in METHODS:
        assert sum(event.examples for event in rounds_in(runs, method)) <= budget + 8
    assert [event.active for event in rounds_in(runs, "continual_sft")] == [("max",), ("cmp",)]
    first, second = (rounds_in(runs, "sro_sft") + rounds_in(runs, "soft_sro_sft"))[::2][:2]
    for event in (first, second):
        assert event.decision.roll_back_to == CheckpointKey(0, 0), "both begin anew from the base"
    for directory in map(Path, runs["directory"]):
        check_soup(directory)


def check_soup(directory: Path) -> None:
    """Check that every checkpoint was tried, the average exported and registered, and no other weights kept."""
    history = read_history(str(directory))
    soup = history.soup
    assert soup is not None
    assert history.state.champion is not None
    keys = {point.checkpoint for decided in history.rounds for point in decided.curves[0].points}
    assert {trial.checkpoint for trial in soup.trials} == keys
    assert soup.members[0] == history.state.champion.checkpoint
    assert soup.trials[0].score == history.state.champion.score <= soup.score
    assert (directory / "soup" / "average").exists() == soup.is_average
    assert len(list(directory.glob("rounds/*/checkpoints/*"))) == 1
    assert len(pd.read_csv(directory / "report" / "soup.csv")) == len(keys)
    client = MlflowClient(f"sqlite:///{directory.parent}/mlflow.db", f"sqlite:///{directory.parent}/mlflow.db")
    (version,) = client.search_model_versions(f"tags.`msft.search_id` = '{history.started.search_id}'")
    assert lineage_of(soup).items() <= version.tags.items()
    mean = sum(-score.loss for score in history.champion.validation.scores) / 2
    assert mean == pytest.approx(soup.score)


def test_a_sweep_reports_each_point_of_its_axis(prefect_server: str, smoke: dict[str, Any], output_root: Path) -> None:
    config = tiny(smoke, output_root)
    compare_methods(config, ("sft",), (5,), axes=(Axis(path="rows", values=(8, 16)),))
    (directory,) = (output_root / "sweeps").iterdir()
    summary = pd.read_csv(directory / "summary.csv")
    assert list(summary["rows"]) == [8, 16]
    assert summary["train_tokens"].iloc[1] == pytest.approx(2 * summary["train_tokens"].iloc[0], rel=0.2)
    assert set(pd.read_csv(directory / "peaks.csv")["sub_dataset"]) == {"max", "cmp"}
    assert {path.name for path in directory.glob("*.png")} == {"peaks.png", "against_rows.png"}
    assert all(Path(run).is_dir() for run in pd.read_csv(directory / "runs.csv")["directory"])
