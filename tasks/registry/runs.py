"""MLflow's runs: one for a search, a child for each round, one above compared searches; and what is logged to them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException

from tasks.contracts import IntervalStats, Mixture, SearchRef
from tasks.errors import DeletedRunError, TrackingError
from tasks.record.paths import RUNS_VIEW, round_title, search_title
from tasks.registry.client import client_of, is_not_there, retry_for, retry_while_unavailable
from tasks.report.markdown import spaced

# A start is refused soon where MLflow is down; a server that is just being restarted may take as long.
_START_PATIENCE_S = 20.0
_LONGEST_TAG = 8000
_COLUMNS = ("excluded", "num_rounds", "champion", "mean_validation", "mean_test")
# A view as MLflow's pages save it when it is shared: the columns of the list of runs are kept nowhere else.
_VIEW = {"selectedColumns": [f"tags.`msft.{name}`" for name in _COLUMNS], "runsExpanded": {}}
_TAGS = {
    # Without it, MLflow may take the experiment for one of language-model applications, and checkpoints for agents.
    "mlflow.experimentKind": "custom_model_development",
    f"mlflow.sharedViewState.{RUNS_VIEW}": json.dumps(_VIEW),
}


def open_search_run(
    search: SearchRef, experiment: str, params: Mapping[str, Any], *, is_new: bool, parent_run_id: str = ""
) -> SearchRef:
    """Return the search with the ids of its MLflow run: its own where there is one, else a new one.

    Args:
        params: logged with the run.
        parent_run_id: the run of the comparison that the search is part of; empty where it runs alone.
    Raises:
        TrackingError: MLflow does not answer, or holds no run of a search that has begun (not `is_new`).
    """

    def open_it() -> SearchRef:
        opened = _open_run(search, experiment, params, "search", is_new)
        if parent_run_id:
            client_of(search.tracking_uri).set_tag(opened.run_id, "mlflow.parentRunId", parent_run_id)
        return opened

    return retry_for(search.tracking_uri, _START_PATIENCE_S, open_it)


def open_comparison_run(comparison: SearchRef, experiment: str, params: Mapping[str, Any], kind: str) -> SearchRef:
    """Return a comparison, or sweep, with the ids of its MLflow run, under which its searches come to stand."""
    uri = comparison.tracking_uri
    return retry_for(uri, _START_PATIENCE_S, lambda: _open_run(comparison, experiment, params, kind, True))


@retry_while_unavailable
def adopt_finished_run(search: SearchRef, experiment: str, parent_run_id: str) -> bool:
    """Put a search's run under that of a comparison if it is FINISHED, and say whether it is."""
    client = client_of(search.tracking_uri)
    search = search.model_copy(update={"experiment_id": _experiment(client, search, experiment)})
    run_id = _find_run(client, search, "search")
    if run_id is None or client.get_run(run_id).info.status != "FINISHED":
        return False
    client.set_tag(run_id, "mlflow.parentRunId", parent_run_id)
    return True


def _open_run(search: SearchRef, experiment: str, params: Mapping[str, Any], kind: str, is_new: bool) -> SearchRef:
    client = client_of(search.tracking_uri)
    search = search.model_copy(update={"experiment_id": _experiment(client, search, experiment)})
    run_id = _find_run(client, search, kind)
    if run_id is None and not is_new:
        raise TrackingError(
            search.tracking_uri,
            f"holds no run of search {search.search_id}, which has begun; set tracking.uri to the store that it "
            "began with, restore that store from a backup, or start another search with a new name",
        )
    if run_id is None:
        title = search_title(search.name, search.search_id)
        tags = {"msft.search_id": search.search_id, "msft.kind": kind, "mlflow.runName": title}
        run_id = client.create_run(search.experiment_id, tags=tags).info.run_id
    else:
        client.update_run(run_id, status="RUNNING")
    held = client.get_run(run_id).data.params  # a kill may have come before they were logged
    missing = [Param(key, str(value)[:6000]) for key, value in params.items() if key not in held]
    client.log_batch(run_id, params=missing)
    return search.model_copy(update={"run_id": run_id})


@retry_while_unavailable
def close_search_run(search: SearchRef, status: str) -> None:
    """Set the final status of the search's run and of its rounds: FINISHED, FAILED or KILLED."""
    client = client_of(search.tracking_uri)
    client.set_terminated(search.run_id, status=status)
    _end_running(client, search, search.experiment_id, status)


@retry_while_unavailable
def end_runs(search: SearchRef, experiment: str, status: str) -> None:
    """Set the status of those runs of a search that are under way, by its id alone; there may be none yet."""
    if is_not_there(search.tracking_uri):
        return
    client = client_of(search.tracking_uri)
    if (found := client.get_experiment_by_name(experiment)) is not None:
        _end_running(client, search, found.experiment_id, status)


def _end_running(client: MlflowClient, search: SearchRef, experiment_id: str, status: str) -> None:
    filter_string = f"tags.`msft.search_id` = '{search.search_id}' and attributes.status = 'RUNNING'"
    for run in client.search_runs([experiment_id], filter_string):
        client.set_terminated(run.info.run_id, status=status)


def run_statuses(tracking_uri: str) -> dict[str, str]:
    """Return the status of every search's run that the store holds, by search id."""

    def ask() -> dict[str, str]:
        client = client_of(tracking_uri)
        ids = [experiment.experiment_id for experiment in client.search_experiments()]
        runs = client.search_runs(ids, "tags.`msft.kind` = 'search'", max_results=1000)
        return {run.data.tags["msft.search_id"]: run.info.status for run in runs}

    return retry_for(tracking_uri, 0.0, ask)


@retry_while_unavailable
def open_round_run(search: SearchRef, round_index: int, active: Sequence[str]) -> str:
    """Return the id of the round's run, a child of the search's, which is under way."""
    client = client_of(search.tracking_uri)
    run_id = _find_run(client, search, "round", round_index)
    if run_id is not None:
        client.update_run(run_id, status="RUNNING")
        return run_id
    tags = {
        "msft.search_id": search.search_id,
        "msft.kind": "round",
        "msft.round": str(round_index),
        "msft.active": ", ".join(active)[:_LONGEST_TAG],
        "mlflow.parentRunId": search.run_id,
        "mlflow.runName": round_title(search, round_index, active),
    }
    created: str = client.create_run(search.experiment_id, tags=tags).info.run_id
    return created


@retry_while_unavailable
def close_round_run(search: SearchRef, run_id: str, tags: Mapping[str, str]) -> None:
    """Close a round's run with the decision in its tags."""
    tag_run(search, run_id, tags)
    client_of(search.tracking_uri).set_terminated(run_id, status="FINISHED")


def _experiment(client: MlflowClient, search: SearchRef, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        for key, value in _TAGS.items():
            if key not in found.tags:  # an older version, or a person, created it
                client.set_experiment_tag(found.experiment_id, key, value)
        return str(found.experiment_id)
    # MLflow's own default for a local store is a folder of the directory one happens to stand in.
    is_local = search.tracking_uri.startswith("sqlite:")
    location = str(Path(search.directory).resolve().parent / "mlflow-artifacts") if is_local else None
    try:
        return str(client.create_experiment(name, artifact_location=location, tags=_TAGS))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return _experiment(client, search, name)  # another search was first


def _find_run(client: MlflowClient, search: SearchRef, kind: str, round_index: int | None = None) -> str | None:
    parts = [f"tags.`msft.search_id` = '{search.search_id}'", f"tags.`msft.kind` = '{kind}'"]
    if round_index is not None:
        parts.append(f"tags.`msft.round` = '{round_index}'")
    runs = client.search_runs([search.experiment_id], " and ".join(parts), run_view_type=ViewType.ALL)
    active = [run for run in runs if run.info.lifecycle_stage == "active"]
    if runs and not active:
        raise DeletedRunError(search.tracking_uri, runs[0].info.run_id)
    return str(active[0].info.run_id) if active else None


@retry_while_unavailable
def log_datasets(search: SearchRef, splits: Iterable[tuple[str, str, str, Mapping[str, int]]]) -> None:
    """Link splits to the search's run, given as (sub-dataset, split, SHA-256 of its rows, its sizes)."""
    inputs = []
    for name, split, sha256, sizes in splits:
        source = json.dumps({**sizes, "sha256": sha256})
        dataset = Dataset(f"{name}/{split}", sha256[:16], source_type="local", source=source)
        inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", split)]))
    client_of(search.tracking_uri).log_inputs(search.run_id, datasets=inputs)


@retry_while_unavailable
def log_points(search: SearchRef, run_id: str, values: Mapping[str, float], stamp_ms: int, step: int = 0) -> None:
    """Log metrics of a run; with the same time stamp, logging them again changes nothing."""
    metrics = [Metric(key, value, stamp_ms, step) for key, value in values.items()]
    client_of(search.tracking_uri).log_batch(run_id, metrics=metrics)


def log_mixture(search: SearchRef, run_id: str, mixture: Mixture, stamp_ms: int) -> None:
    """Log the realized share of each sub-dataset in the round's mixture."""
    shares = {"examples": mixture.example_shares, "tokens": mixture.token_shares}
    values = {f"mixture/{unit}/{name}": share for unit, held in shares.items() for name, share in held.items()}
    log_points(search, run_id, values, stamp_ms, mixture.round)


def log_training(search: SearchRef, run_id: str, interval: IntervalStats, published_at_ms: int) -> None:
    """Log the training of one evaluation interval."""
    values = {
        "train/tokens": float(interval.num_tokens),
        "train/examples": float(interval.num_examples),
        "train/flops": interval.flops,
        "train/seconds": interval.seconds,
        "train/learning_rate": interval.learning_rate,
        **{f"train/loss/{name}": loss for name, loss in interval.losses.items()},
    }
    log_points(search, run_id, values, published_at_ms, interval.key.step)


@retry_while_unavailable
def tag_run(search: SearchRef, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags on a run."""
    run_tags = [RunTag(key, value[:_LONGEST_TAG]) for key, value in tags.items()]
    client_of(search.tracking_uri).log_batch(run_id, tags=run_tags)


def describe_run(search: SearchRef, run_id: str, text: str) -> None:
    """Set a run's description, which its page shows as Markdown."""
    tag_run(search, run_id, {"mlflow.note.content": spaced(text)})


@retry_while_unavailable
def log_files(search: SearchRef, paths: Iterable[Path], folder: str = "") -> None:
    """Copy files to the search's run as artifacts."""
    client = client_of(search.tracking_uri)
    for path in paths:
        client.log_artifact(search.run_id, str(path), folder or None)
