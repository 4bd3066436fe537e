"""A search that version 1 of the journal left half-done goes on to the decisions and champion of an undisturbed one.

`half_done_smoke.tar.gz` holds what a search of `deployments/configs/smoke.yaml` left when it was killed in its second
round: its directory and MLflow store, with `/ROOT` in place of the folder. `journals/smoke` is the undisturbed one.
"""

from __future__ import annotations

import sqlite3
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tasks.config.loading import load_config
from tasks.record.journal import read_history
from tasks.runtime.machine import numerical_environment

HERE = Path(__file__).parent
SMOKE = HERE.parents[1] / "deployments" / "configs" / "smoke.yaml"
PLACES = (("runs", "artifact_uri"), ("logged_models", "artifact_location"), ("experiments", "artifact_location"))


def unpack(root: Path) -> None:
    """Unpack the search into `root`, and tell its MLflow store where it lies."""
    with tarfile.open(HERE / "half_done_smoke.tar.gz") as archive:
        archive.extractall(root, filter="data")
    with sqlite3.connect(root / "mlflow.db") as store:
        for table, column in PLACES:
            store.execute(f"update {table} set {column} = replace({column}, '/ROOT', ?)", (str(root),))
    store.close()


def decided(directory: Path) -> list[Any]:
    return [
        (event.curves, event.decision, event.champion, event.stop_reason, [i.batch_hash for i in event.intervals])
        for event in read_history(str(directory)).rounds
    ]


def test_a_search_of_version_1_goes_on_undisturbed(prefect_server: str, tmp_path: Path) -> None:
    from flows.search import msft_search

    unpack(tmp_path)
    config = load_config(str(SMOKE), [f"output_root={tmp_path}"])
    directory, undisturbed = tmp_path / "smoke-dc10822e", HERE / "journals" / "smoke"
    history = read_history(str(directory))
    assert (history.state.round, history.started.version) == (1, 2)
    if numerical_environment(config) != history.started.numerical_environment:
        pytest.skip(f"begun with {history.started.numerical_environment}")
    result = msft_search(config)
    expected = read_history(str(undisturbed)).champion
    assert decided(directory) == decided(undisturbed)
    assert (result.key, result.validation.scores) == (expected.key, expected.validation.scores)
    assert result.test is not None
    assert expected.test is not None
    assert result.test.scores == expected.test.scores
