"""MLflow's runs: one for a search, a child for each of its rounds; with registry.py all that imports mlflow."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Seven retries take four minutes before an error (facts.md, B5); three are enough to bridge a restart.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from tasks.contracts import IntervalStats, Mixture, SearchRef, SubDatasetRef
from tasks.errors import CheckpointNotFoundError, TrackingError


def open_search_run(
    search_id: str, name: str, directory: str, tracking_uri: str, experiment: str, params: Mapping[str, Any]
) -> SearchRef:
    """Return the search with its MLflow parent run: the one of this search where there is one, else a new one.

    Raises:
        TrackingError: MLflow does not answer.
    """
    try:
        client = client_of(tracking_uri)
        experiment_id = _experiment(client, tracking_uri, experiment, directory)
        run_id = _find_run(client, experiment_id, search_id, "search")
        if run_id is None:
            tags = {
                "msft.search_id": search_id,
                "msft.kind": "search",
                "mlflow.runName": f"{name}-{search_id}",
            }
            run_id = client.create_run(experiment_id, tags=tags).info.run_id
        else:
            client.update_run(run_id, status="RUNNING")
        held = client.get_run(run_id).data.params  # a kill may have come before they were logged
        missing = [Param(key, str(value)[:6000]) for key, value in params.items() if key not in held]
        client.log_batch(run_id, params=missing)
    except (MlflowException, OSError) as error:
        raise TrackingError(tracking_uri, " ".join(str(error).split())[:300]) from error
    return SearchRef(
        search_id=search_id,
        name=name,
        directory=directory,
        tracking_uri=tracking_uri,
        experiment_id=experiment_id,
        run_id=run_id,
    )


def close_search_run(search: SearchRef, status: str) -> None:
    """Set the final status of the search's run and of its rounds: FINISHED, FAILED or KILLED."""
    client = client_of(search.tracking_uri)
    client.set_terminated(search.run_id, status=status)
    filter_string = f"tags.`msft.search_id` = '{search.search_id}' and attributes.status = 'RUNNING'"
    for run in client.search_runs([search.experiment_id], filter_string):
        client.set_terminated(run.info.run_id, status=status)


def open_round_run(search: SearchRef, round_index: int, active: Sequence[str]) -> str:
    """Return the id of the round's run, a child of the search's."""
    client = client_of(search.tracking_uri)
    run_id = _find_run(client, search.experiment_id, search.search_id, "round", round_index)
    if run_id is not None:
        return run_id
    tags = {
        "msft.search_id": search.search_id,
        "msft.kind": "round",
        "msft.round": str(round_index),
        "msft.active": ", ".join(active),
        "mlflow.parentRunId": search.run_id,
        "mlflow.runName": f"{search.name}-{search.search_id} / round-{round_index}",
    }
    created: str = client.create_run(search.experiment_id, tags=tags).info.run_id
    return created


def close_round_run(search: SearchRef, round_index: int, tags: Mapping[str, str]) -> None:
    """Close a round's run with the decision in its tags."""
    client = client_of(search.tracking_uri)
    run_id = round_run_of(search, round_index)
    client.log_batch(run_id, tags=[RunTag(key, value[:5000]) for key, value in tags.items()])
    client.set_terminated(run_id, status="FINISHED")


def log_datasets(search: SearchRef, sub_datasets: Iterable[SubDatasetRef]) -> None:
    """Link the train and validation rows, by their hashes, to the search's run."""
    inputs = []
    for sub_dataset in sub_datasets:
        for context, split in (("train", sub_dataset.train), ("validation", sub_dataset.validation)):
            source = json.dumps({"rows": split.num_rows, "tokens": split.num_tokens, "sha256": split.sha256})
            dataset = Dataset(
                name=f"{sub_dataset.name}/{context}",
                digest=split.sha256[:16],
                source_type="local",
                source=source,
            )
            inputs.append(DatasetInput(dataset=dataset, tags=[InputTag("mlflow.data.context", context)]))
    client_of(search.tracking_uri).log_inputs(search.run_id, datasets=inputs)


def log_mixture(search: SearchRef, run_id: str, mixture: Mixture, stamp_ms: int) -> None:
    """Log the realised share of each sub-dataset in the round's mixture; logging it again changes nothing."""
    shares = {"examples": mixture.example_shares, "tokens": mixture.token_shares}
    metrics = [
        Metric(f"mixture/{unit}/{name}", share, stamp_ms, mixture.round)
        for unit, by_name in shares.items()
        for name, share in by_name.items()
    ]
    client_of(search.tracking_uri).log_batch(run_id, metrics=metrics)


def log_training(search: SearchRef, run_id: str, interval: IntervalStats, published_at_ms: int) -> None:
    """Log what one evaluation interval trained; the time stamp makes logging it again change nothing."""
    values = {
        "train/tokens": float(interval.num_tokens),
        "train/examples": float(interval.num_examples),
        "train/flops": interval.flops,
        "train/seconds": interval.seconds,
        "train/learning_rate": interval.learning_rate,
        **{f"train/loss/{name}": loss for name, loss in interval.losses.items()},
    }
    metrics = [Metric(key, value, published_at_ms, interval.key.step) for key, value in values.items()]
    client_of(search.tracking_uri).log_batch(run_id, metrics=metrics)


def log_files(search: SearchRef, paths: Iterable[Path], folder: str = "") -> None:
    """Copy files to the search's run as artifacts."""
    client = client_of(search.tracking_uri)
    for path in paths:
        client.log_artifact(search.run_id, str(path), folder or None)


def log_summary(
    search: SearchRef, metrics: Mapping[str, float], tags: Mapping[str, str], stamp_ms: int
) -> None:
    """Log the numbers of the end of the search, at step 0; with the same stamp, again changes nothing."""
    client_of(search.tracking_uri).log_batch(
        search.run_id,
        metrics=[Metric(key, value, stamp_ms, 0) for key, value in metrics.items()],
        tags=[RunTag(key, value) for key, value in tags.items()],
    )


@lru_cache(maxsize=4)
def client_of(tracking_uri: str) -> MlflowClient:
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    _create_whole(tracking_uri)
    return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def _create_whole(tracking_uri: str) -> None:
    """Create an SQLite store beside its place and link it there.

    A kill during MLflow's own creation of it (7 s of migrations) would leave one that MLflow refuses ever after.
    """
    store = Path(tracking_uri.removeprefix("sqlite:///"))
    if not tracking_uri.startswith("sqlite:///") or store.exists():
        return
    store.parent.mkdir(parents=True, exist_ok=True)
    staging = store.with_name(f".{store.name}.{os.getpid()}")
    staging.unlink(missing_ok=True)
    MlflowClient(f"sqlite:///{staging}").search_experiments(max_results=1)
    with suppress(FileExistsError):  # another search of this folder was first
        os.link(staging, store)
    staging.unlink()


def _experiment(client: MlflowClient, tracking_uri: str, name: str, directory: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    # MLflow's own default for a local store is a folder of the directory one happens to stand in.
    is_local = tracking_uri.startswith("sqlite:")
    location = str(Path(directory).resolve().parent / "mlflow-artifacts") if is_local else None
    return str(client.create_experiment(name, artifact_location=location))


def _find_run(
    client: MlflowClient, experiment_id: str, search_id: str, kind: str, round_index: int | None = None
) -> str | None:
    parts = [f"tags.`msft.search_id` = '{search_id}'", f"tags.`msft.kind` = '{kind}'"]
    if round_index is not None:
        parts.append(f"tags.`msft.round` = '{round_index}'")
    runs = client.search_runs([experiment_id], " and ".join(parts), max_results=1)
    return str(runs[0].info.run_id) if runs else None


def round_run_of(search: SearchRef, round_index: int) -> str:
    """Return the id of a round's run.

    Raises:
        CheckpointNotFoundError: the round was never registered.
    """
    return _round_run(search.tracking_uri, search.experiment_id, search.search_id, round_index)


@lru_cache(maxsize=64)  # a run's id never changes, and every score asks for it
def _round_run(uri: str, experiment_id: str, search_id: str, round_index: int) -> str:
    run_id = _find_run(client_of(uri), experiment_id, search_id, "round", round_index)
    if run_id is None:
        raise CheckpointNotFoundError(search_id, round_index, -1, [])
    return run_id
