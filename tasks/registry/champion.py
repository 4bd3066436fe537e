"""The champion in MLflow: a logged model with its files, and a version under the search's name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from tasks.contracts import CheckpointScores, RegisteredCheckpoint, SearchRef, Value
from tasks.registry.checkpoints import means_of, score_metrics
from tasks.registry.client import client_of, retry_while_unavailable
from tasks.report.markdown import ModelCard, spaced

_LONGEST_DESCRIPTION = 5000  # of a model's version, where a database checks it


class RegisteredChampion(Value):
    """The ids of a champion in MLflow: its logged model, and the version under the search's name."""

    model_id: str
    version: str


@retry_while_unavailable
def register_champion(
    search: SearchRef, directory: Path, checkpoint: RegisteredCheckpoint, card: ModelCard
) -> RegisteredChampion:
    """Upload the champion and register it under the search's name with the alias `champion`."""
    client = client_of(search.tracking_uri)
    name = f"msft-{search.name}"
    version = _version_of(client, search, name)
    if version is None:
        model = _upload(client, search, directory, checkpoint, card)
        version = client.create_model_version(
            name,
            source=f"models:/{model.model_id}",
            run_id=search.run_id,
            model_id=model.model_id,
            tags=dict(card.lineage),
            description=spaced(card.body)[:_LONGEST_DESCRIPTION],
        )
    client.set_registered_model_alias(name, "champion", version.version)
    # The best checkpoint is the champion, or the first of those that it is an average of.
    client.set_logged_model_tags(checkpoint.model_id, {"msft.champion": card.lineage.get("msft.soup", "true")})
    model_id = str(version.source).removeprefix("models:/")
    return RegisteredChampion(model_id=model_id, version=str(version.version))


def _version_of(client: MlflowClient, search: SearchRef, name: str) -> ModelVersion | None:
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_registered_model(name)
    versions = client.search_model_versions(f"name = '{name}'")
    return next((v for v in versions if (v.tags or {}).get("msft.search_id") == search.search_id), None)


def _upload(
    client: MlflowClient, search: SearchRef, directory: Path, checkpoint: RegisteredCheckpoint, card: ModelCard
) -> LoggedModel:
    condition = f"source_run_id = '{search.run_id}' AND name = 'champion'"
    for left in client.search_logged_models([search.experiment_id], filter_string=condition):
        client.delete_logged_model(left.model_id)  # a kill came before its version
    key = checkpoint.key
    model = client.create_logged_model(
        search.experiment_id,
        name="champion",
        source_run_id=search.run_id,
        model_type="msft-champion",
        params={"round": str(key.round), "step": str(key.step)},
        tags={**card.lineage, "msft.champion": str(key)},
    )
    mlflow.set_tracking_uri(search.tracking_uri)  # the registry resolves models:/ through the global one
    client.log_model_artifacts(model.model_id, str(directory))
    return client.finalize_logged_model(model.model_id, "READY")


@retry_while_unavailable
def log_test_scores(
    search: SearchRef,
    champion: RegisteredChampion,
    checkpoint: RegisteredCheckpoint,
    validation: CheckpointScores,
    test: CheckpointScores,
    digests: Mapping[str, str],
) -> None:
    """Log the test scores, and the means by which models are sorted, on the champion's logged model.

    The run is that of the checkpoint's round: on the search's, each score would be a chart of one bar above the curves.
    Logging them again changes nothing.
    """
    stamp_ms, step, run_id = checkpoint.published_at_ms, checkpoint.key.step, checkpoint.run_id
    metrics = score_metrics(test, "test", digests, stamp_ms, champion.model_id, run_id)
    metrics += [
        Metric(key, value, stamp_ms, step, model_id=champion.model_id) for key, value in means_of(validation).items()
    ]
    client_of(search.tracking_uri).log_batch(run_id, metrics=metrics)
