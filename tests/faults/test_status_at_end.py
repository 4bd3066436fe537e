"""A search that ends early says so in MLflow, from the moment its run is open there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tasks.config.schema import SearchConfig
from tasks.contracts import BaseModelRef, Inputs, SearchRun
from tasks.errors import DriftError
from tasks.opening import check_for_drift, mark_failed_on_error, open_search, reference_to
from tasks.record.journal import append_event
from tests.unit.made_events import started


@pytest.fixture
def inputs(tiny_base: BaseModelRef) -> Inputs:
    return Inputs(model=tiny_base, sub_datasets=())


@pytest.fixture
def config(prepare_root: Callable[[Path], Path], tmp_path: Path) -> SearchConfig:
    return config_in(prepare_root(tmp_path))


def config_in(folder: Path) -> SearchConfig:
    return SearchConfig.model_validate(
        {
            "name": "one",
            "output_root": str(folder),
            "model": {"source": "somewhere"},
            "mixture": {"sub_datasets": [{"name": "max", "synthetic": {"skill": "max"}}]},
            "search": {"max_epochs": 4},
        }
    )


def statuses(config: SearchConfig) -> list[str]:
    uri = reference_to(config, config.output_root).tracking_uri
    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    return [run.info.status for run in client.search_runs([experiment.experiment_id])]


def open_until(
    end: BaseException, place: str, config: SearchConfig, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Open a search, and end it at the function `place`."""

    def ends(*args: object, **kwargs: object) -> None:
        raise end

    directory = str(Path(config.output_root, "one"))
    Path(directory).mkdir()
    monkeypatch.setattr(place, ends)
    with pytest.raises(type(end)), mark_failed_on_error(reference_to(config, directory), config.tracking.experiment):
        open_search.fn(SearchRun(ref=reference_to(config, directory), config=config, inputs=inputs), "")


@pytest.mark.parametrize(
    ("place", "end", "status"),
    [
        # Its run has just been created, and nobody knows the id yet.
        ("mlflow.MlflowClient.get_run", SystemExit(143), "KILLED"),
        ("tasks.opening.describe_environment", KeyboardInterrupt(), "KILLED"),
        ("tasks.opening.describe_environment", KeyError(), "FAILED"),
    ],
)
def test_an_end_while_the_search_is_opened_is_told(
    end: BaseException, status: str, place: str, config: SearchConfig, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        open_until(end, place, config, inputs, patch)
    assert statuses(config) == [status]


def test_an_end_before_mlflow_has_a_store_creates_none(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_in(tmp_path)
    open_until(SystemExit(143), "tasks.registry.client._create_whole", config, inputs, monkeypatch)
    assert not (tmp_path / "mlflow.db").exists()


def test_a_refused_search_keeps_its_status(inputs: Inputs, tmp_path: Path) -> None:
    """It is refused before the block that sets the status, and MLflow is not asked for anything."""
    config = config_in(tmp_path)
    append_event(str(tmp_path), started(content={"base model": "another"}))
    with pytest.raises(DriftError):
        check_for_drift(SearchRun(ref=reference_to(config, str(tmp_path)), config=config, inputs=inputs), False)
    assert not (tmp_path / "mlflow.db").exists()
