"""Results that two searches of one configuration share, however often one was killed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric

from tasks.record.events import ChampionCrowned, of_kind, rounds_of, start_of
from tests.faults.processes import directory_of, events_of

# Clock readings, and where a search happens to lie.
_OWN = {"at", "seconds", "published_at_ms", "directory", "environment", "sha256", "model_version"}
# What was trained twice, and files that hold clock readings, are a byte longer or shorter.
_OWN |= {"restarts", "num_bytes"}
_OWN_METRICS = ("seconds", "ledger/restart/", "/bytes")
# Readings of the machine, one a minute: how many there are depends on the clock too.
_SYSTEM = "system/"


def record_of(output_root: Path, tracking_uri: str | None = None) -> dict[str, Any]:
    """Return everything of a finished search that is not a time or a place; points stand as often as they are held."""
    directory = directory_of(output_root)
    assert directory is not None
    events = events_of(output_root)
    weights = (directory / "champion" / "model.safetensors").read_bytes()
    uri = tracking_uri or f"sqlite:///{(output_root / 'mlflow.db').resolve()}"
    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name("msft")
    search_id = start_of(events).search_id
    return {
        "decisions": [_timeless(decided.model_dump(mode="json")) for decided in rounds_of(events)],
        "champion": [_timeless(e.model_dump(mode="json")) for e in of_kind(events, ChampionCrowned)],
        "champion weights": hashlib.sha256(weights).hexdigest(),
        **tracked(client, experiment.experiment_id, search_id),
        "reports": sorted(path.name for path in (directory / "report").iterdir()),
    }


def tracked(client: MlflowClient, experiment_id: str, search_id: str) -> dict[str, Any]:
    """Return all that MLflow holds of a search, without its id."""
    versions = client.search_model_versions(f"tags.`msft.search_id` = '{search_id}'")
    record = {
        "runs": _runs(client, experiment_id, search_id),
        "models": _models(client, experiment_id, search_id),
        "versions": [(v.name, str(v.version), v.aliases) for v in versions],
    }
    told: dict[str, Any] = json.loads(json.dumps(record).replace(search_id, "ID"))
    return told


def batch_hashes(record: dict[str, Any]) -> list[str]:
    """Return the hash over the batches up to each checkpoint."""
    return [interval["batch_hash"] for decision in record["decisions"] for interval in decision["intervals"]]


def differences(expected: dict[str, Any], got: dict[str, Any]) -> list[str]:
    """Name every part in which two records differ."""
    return [problem for key in expected for problem in _compare(key, expected[key], got[key])]


def _compare(where: str, expected: Any, got: Any) -> list[str]:
    if isinstance(expected, dict) and isinstance(got, dict):
        keys = sorted({*expected, *got}, key=str)
        return [p for key in keys for p in _compare(f"{where}/{key}", expected.get(key), got.get(key))]
    if isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
        pairs = enumerate(zip(expected, got, strict=True))
        return [p for index, (a, b) in pairs for p in _compare(f"{where}/{index}", a, b)]
    return [] if expected == got else [f"{where}: {str(expected)[:300]} | {str(got)[:300]}"]


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in _OWN}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def _runs(client: MlflowClient, experiment_id: str, search_id: str) -> dict[str, Any]:
    runs: dict[str, Any] = {}
    for run in client.search_runs([experiment_id], f"tags.`msft.search_id` = '{search_id}'"):
        name = f"{run.data.tags['msft.kind']} {run.data.tags.get('msft.round', '')}".strip()
        assert name not in runs, f"two runs of {name}"
        runs[name] = {
            "status": run.info.status,
            "tags": {key: value for key, value in run.data.tags.items() if key.startswith("msft.")},
            "params": run.data.params,
            "inputs": sorted((i.dataset.name, i.dataset.digest) for i in run.inputs.dataset_inputs),
            "artifacts": sorted(_artifacts(client, run.info.run_id, "")),
            "points": _points(
                point
                for key in run.data.metrics
                if not key.startswith(_SYSTEM)
                for point in client.get_metric_history(run.info.run_id, key)
            ),
        }
    return runs


def _points(metrics: Iterable[Metric]) -> list[Any]:
    """Return each point as often as it is held; a clock's reading must be there as often, whatever it says."""
    points = [
        [metric.key, metric.step, None if any(part in metric.key for part in _OWN_METRICS) else metric.value]
        for metric in metrics
    ]
    return sorted(points, key=str)


def _artifacts(client: MlflowClient, run_id: str, folder: str) -> list[str]:
    found: list[str] = []
    for file in client.list_artifacts(run_id, folder or None):
        found += _artifacts(client, run_id, file.path) if file.is_dir else [file.path]
    return found


def _models(client: MlflowClient, experiment_id: str, search_id: str) -> list[Any]:
    condition = f"tags.`msft.search_id` = '{search_id}'"
    models = client.search_logged_models([experiment_id], filter_string=condition, max_results=1000)
    return sorted([model.name, str(model.status), _points(model.metrics or [])] for model in models)
