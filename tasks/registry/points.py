"""Data, metric points, files and texts that a search logs to its MLflow runs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, RunTag

from tasks.contracts import CheckpointScores, IntervalStats, Mixture, SearchRef, SubDatasetRef
from tasks.registry.client import client_of, retry_while_unavailable
from tasks.report.markdown import spaced

_LONGEST_TAG = 8000


@retry_while_unavailable
def log_datasets(search: SearchRef, sub_datasets: Iterable[SubDatasetRef]) -> None:
    """Link the train and validation rows, by their hashes, to the search's run."""
    inputs = [
        _dataset(part.name, context, rows.sha256, {"rows": rows.num_rows, "tokens": rows.num_tokens})
        for part in sub_datasets
        for context, rows in (("train", part.train), ("validation", part.validation))
    ]
    client_of(search.tracking_uri).log_inputs(search.run_id, datasets=inputs)


@retry_while_unavailable
def log_test_datasets(search: SearchRef, test: CheckpointScores, hashes: Mapping[str, str]) -> None:
    """Link the test rows that the champion was scored on; not before, since a search must not depend on them."""
    inputs = [
        _dataset(score.sub_dataset, "test", hashes[score.sub_dataset], {"rows": score.num_examples})
        for score in test.scores
    ]
    client_of(search.tracking_uri).log_inputs(search.run_id, datasets=inputs)


def _dataset(name: str, context: str, sha256: str, size: Mapping[str, int]) -> DatasetInput:
    source = json.dumps({**size, "sha256": sha256})
    dataset = Dataset(f"{name}/{context}", sha256[:16], source_type="local", source=source)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", context)])


@retry_while_unavailable
def log_mixture(search: SearchRef, run_id: str, mixture: Mixture, stamp_ms: int) -> None:
    """Log the realised share of each sub-dataset in the round's mixture; logging it again changes nothing."""
    shares = {"examples": mixture.example_shares, "tokens": mixture.token_shares}
    metrics = [
        Metric(f"mixture/{unit}/{name}", share, stamp_ms, mixture.round)
        for unit, by_name in shares.items()
        for name, share in by_name.items()
    ]
    client_of(search.tracking_uri).log_batch(run_id, metrics=metrics)


@retry_while_unavailable
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


@retry_while_unavailable
def log_system(search: SearchRef, run_id: str, values: Mapping[str, float], step: int) -> None:
    """Log readings of the machine, now, at the optimizer step that training has reached."""
    now_ms = time.time_ns() // 1_000_000
    metrics = [Metric(key, value, now_ms, step) for key, value in values.items()]
    client_of(search.tracking_uri).log_batch(run_id, metrics=metrics)


@retry_while_unavailable
def describe_run(search: SearchRef, run_id: str, text: str) -> None:
    """Set a run's description, which its page shows as Markdown."""
    client_of(search.tracking_uri).set_tag(run_id, "mlflow.note.content", spaced(text)[:_LONGEST_TAG])


@retry_while_unavailable
def tag_search(search: SearchRef, tags: Mapping[str, str]) -> None:
    """Set tags on the search's run."""
    run_tags = [RunTag(key, value[:_LONGEST_TAG]) for key, value in tags.items()]
    client_of(search.tracking_uri).log_batch(search.run_id, tags=run_tags)


@retry_while_unavailable
def log_files(search: SearchRef, paths: Iterable[Path], folder: str = "") -> None:
    """Copy files to the search's run as artifacts."""
    client = client_of(search.tracking_uri)
    for path in paths:
        client.log_artifact(search.run_id, str(path), folder or None)


@retry_while_unavailable
def log_summary(search: SearchRef, metrics: Mapping[str, float], tags: Mapping[str, str], stamp_ms: int) -> None:
    """Log the numbers of the end of the search, at step 0; with the same stamp, again changes nothing."""
    client_of(search.tracking_uri).log_batch(
        search.run_id,
        metrics=[Metric(key, value, stamp_ms, 0) for key, value in metrics.items()],
        tags=[RunTag(key, value) for key, value in tags.items()],
    )
