"""What must be the same in two searches of one configuration, however often one of them was killed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from tests.faults.processes import directory_of, events_of

# Clock readings, and where a search happens to lie.
_OWN = {"at", "seconds", "published_at_ms", "directory", "environment", "sha256", "model_version"}


def record_of(output_root: Path) -> dict[str, Any]:
    """Return everything of a finished search that is not a time or a place; points stand as often as they are held."""
    directory = directory_of(output_root)
    assert directory is not None
    events = events_of(output_root)
    weights = (directory / "champion" / "model.safetensors").read_bytes()
    uri = f"sqlite:///{(output_root / 'mlflow.db').resolve()}"
    client = MlflowClient(uri, uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return {
        "decisions": [_timeless(e) for e in events if e["event"] == "round_decided"],
        "champion": [_timeless(e) for e in events if e["event"] == "champion_crowned"],
        "champion weights": hashlib.sha256(weights).hexdigest(),
        "runs": _runs(client, experiments),
        "logged models": _models(client, experiments),
        "versions": [(v.name, v.version, v.aliases) for v in client.search_model_versions()],
        "reports": sorted(path.name for path in (directory / "report").iterdir()),
    }


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


def _runs(client: MlflowClient, experiments: list[str]) -> dict[str, Any]:
    runs: dict[str, Any] = {}
    for run in client.search_runs(experiments):
        name = f"{run.data.tags['msft.kind']} {run.data.tags.get('msft.round', '')}".strip()
        assert name not in runs, f"two runs of {name}"
        runs[name] = {
            "status": run.info.status,
            "tags": {key: value for key, value in run.data.tags.items() if key.startswith("msft.")},
            "params": run.data.params,
            "inputs": sorted((i.dataset.name, i.dataset.digest) for i in run.inputs.dataset_inputs),
            "artifacts": sorted(_artifacts(client, run.info.run_id, "")),
            "points": sorted(
                [key, point.step, point.value]
                for key in run.data.metrics
                if "seconds" not in key
                for point in client.get_metric_history(run.info.run_id, key)
            ),
        }
    return runs


def _artifacts(client: MlflowClient, run_id: str, folder: str) -> list[str]:
    found: list[str] = []
    for file in client.list_artifacts(run_id, folder or None):
        found += _artifacts(client, run_id, file.path) if file.is_dir else [file.path]
    return found


def _models(client: MlflowClient, experiments: list[str]) -> list[Any]:
    models = client.search_logged_models(experiments, max_results=1000)
    return sorted(
        [
            model.name,
            str(model.status),
            sorted([m.key, m.step, m.value] for m in model.metrics or [] if "seconds" not in m.key),
        ]
        for model in models
    )
