"""MLflow as the registry of checkpoints, scores and champions: what the rollback asks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Metric
from mlflow.exceptions import MlflowException

from tasks.algorithm.state import CheckpointKey
from tasks.contracts import CheckpointRef, CheckpointScores, EvaluationCost, SearchRef
from tasks.errors import CheckpointNotFoundError
from tasks.registry.client import client_of, retry_while_unavailable
from tasks.registry.runs import round_run_of
from tasks.report.markdown import spaced
from tasks.report.model_card import ModelCard

_PAGE = 100
_LONGEST_DESCRIPTION = 5000  # of a model's version, where a database checks it


@retry_while_unavailable
def register_checkpoint(search: SearchRef, run_id: str, checkpoint: CheckpointRef) -> None:
    """Register a published checkpoint as a READY logged model; registering it again changes nothing.

    A model that a kill left unfinished, or whose files were damaged and trained again, gives way to a new one.
    """
    client = client_of(search.tracking_uri)
    condition = f"source_run_id = '{run_id}' AND name = '{_name_of(checkpoint.key)}'"
    for model in _search_models(client, search, condition):
        if _is_ready(model) and CheckpointRef.model_validate_json(model.params["checkpoint"]) == checkpoint:
            return
        client.delete_logged_model(model.model_id)
    model = client.create_logged_model(
        search.experiment_id,
        name=_name_of(checkpoint.key),
        source_run_id=run_id,
        model_type="msft-checkpoint",
        params={
            "round": str(checkpoint.key.round),
            "step": str(checkpoint.key.step),
            "checkpoint": checkpoint.model_dump_json(),
        },
        tags={
            "msft.search_id": search.search_id,
            "msft.round": str(checkpoint.key.round),
            "msft.step": str(checkpoint.key.step),
        },
    )
    client.finalize_logged_model(model.model_id, "READY")


@retry_while_unavailable
def log_scores(
    search: SearchRef, checkpoint: CheckpointRef, scores: CheckpointScores, digests: Mapping[str, str]
) -> None:
    """Log one checkpoint's validation scores, on its logged model and its round's run.

    Callers pass finite numbers only: MLflow keeps NaN as 0.0, and a diverged checkpoint would win (facts.md, B1).
    """
    client = client_of(search.tracking_uri)
    run_id = round_run_of(search, checkpoint.key.round)
    model = _require_model(client, search, run_id, checkpoint.key)
    stamp, step = checkpoint.published_at_ms, checkpoint.key.step
    metrics = [
        Metric(
            key, value, stamp, step, model_id=model.model_id, dataset_name=f"{name}/validation",
            dataset_digest=digests[name], run_id=run_id,
        )
        for key, value, name in _score_values(scores, "validation")
    ]  # fmt: skip
    if len(scores.scores) == len(digests):
        metrics += [Metric(key, value, stamp, step, model_id=model.model_id) for key, value in _means(scores)]
    metrics += [
        Metric(f"evaluation/{key}", float(value), stamp, step, model_id=model.model_id)
        for key, value in scores.cost.model_dump().items()
    ]
    assert all(math.isfinite(metric.value) for metric in metrics)
    # The file first: a checkpoint that has its metrics counts as scored.
    client.log_dict(
        run_id,
        {score.sub_dataset: score.correct for score in scores.scores},
        f"correct/step-{checkpoint.key.step:08d}.json",
    )
    client.log_batch(run_id, metrics=metrics)


def _score_values(scores: CheckpointScores, split: str) -> Iterator[tuple[str, float, str]]:
    """Yield (metric, value, sub-dataset); the sub-dataset is part of the metric's key, since run charts need it."""
    for score in scores.scores:
        name = score.sub_dataset
        yield f"{split}/loss/{name}", score.loss, name
        yield f"{split}/num_examples/{name}", float(score.num_examples), name
        if score.accuracy is not None:
            yield f"{split}/accuracy/{name}", score.accuracy, name


def _means(scores: CheckpointScores) -> Iterator[tuple[str, float]]:
    """Yield (metric, mean over all sub-datasets), by which the page of models sorts; no name of a sub-dataset."""
    yield "validation/mean_loss", math.fsum(score.loss for score in scores.scores) / len(scores.scores)
    accuracies = [score.accuracy for score in scores.scores if score.accuracy is not None]
    if len(accuracies) == len(scores.scores):
        yield "validation/mean_accuracy", math.fsum(accuracies) / len(accuracies)


class LoggedScores:
    """What MLflow holds of one checkpoint."""

    def __init__(self, model: LoggedModel | None) -> None:
        self._model = model

    def value(self, kind: str, sub_dataset: str) -> float | None:
        """Return the metric `validation/<kind>/<sub-dataset>`, None where it was not measured."""
        return _metric(self._model, f"validation/{kind}/{sub_dataset}") if self._model is not None else None

    def cost(self) -> EvaluationCost:
        """Return what scoring this checkpoint cost."""
        names = EvaluationCost.model_fields
        values = {name: _metric(self._model, f"evaluation/{name}") or 0.0 for name in names}
        return EvaluationCost(
            num_tokens=int(values["num_tokens"]),
            num_examples=int(values["num_examples"]),
            flops=values["flops"],
            seconds=values["seconds"],
        )


@retry_while_unavailable
def logged_scores(search: SearchRef, key: CheckpointKey) -> LoggedScores:
    """Return the scores that MLflow holds of a checkpoint."""
    client = client_of(search.tracking_uri)
    return LoggedScores(_find_model(client, search, round_run_of(search, key.round), key))


@retry_while_unavailable
def find_checkpoint(search: SearchRef, key: CheckpointKey) -> CheckpointRef:
    """Return the READY checkpoint of this key.

    Raises:
        CheckpointNotFoundError: there is none; names the steps there are.
    """
    client = client_of(search.tracking_uri)
    run_id = round_run_of(search, key.round)
    model = _require_model(client, search, run_id, key)
    return CheckpointRef.model_validate_json(model.params["checkpoint"])


@retry_while_unavailable
def mark_checkpoint(search: SearchRef, key: CheckpointKey, tags: Mapping[str, str]) -> None:
    """Set tags on a checkpoint's logged model."""
    client = client_of(search.tracking_uri)
    model = _require_model(client, search, round_run_of(search, key.round), key)
    client.set_logged_model_tags(model.model_id, dict(tags))


@retry_while_unavailable
def accept_path(search: SearchRef, round_index: int, target: CheckpointKey) -> dict[CheckpointKey, int]:
    """Mark which checkpoints of a round led to `target`; return these with their Unix times in ms.

    Their scores are copied to the search's run, whose curves are so those of the accepted path.
    """
    client = client_of(search.tracking_uri)
    accepted: dict[CheckpointKey, int] = {}
    points: list[Metric] = []
    for model in _ready(client, search, f"source_run_id = '{round_run_of(search, round_index)}'"):
        checkpoint = CheckpointRef.model_validate_json(model.params["checkpoint"])
        is_accepted = target.round == round_index and checkpoint.key.step <= target.step
        client.set_logged_model_tags(
            model.model_id, {"msft.path": "accepted" if is_accepted else "discarded"}
        )
        if is_accepted:
            accepted[checkpoint.key] = checkpoint.published_at_ms
            points += [
                Metric(point.key, point.value, point.timestamp, point.step)
                for point in model.metrics or []
                if point.key.startswith("validation/")
            ]
    client.log_batch(search.run_id, metrics=points)
    return accepted


@retry_while_unavailable
def register_champion(search: SearchRef, directory: Path, key: CheckpointKey, card: ModelCard) -> str:
    """Upload the champion, register it under the search's name with the alias `champion`; return the version."""
    client = client_of(search.tracking_uri)
    name = f"msft-{search.name}"
    for version in _versions(client, name):
        if (version.tags or {}).get("msft.search_id") == search.search_id:
            client.set_registered_model_alias(name, "champion", version.version)
            return str(version.version)
    for left in _search_models(client, search, _champion_of(search)):
        client.delete_logged_model(left.model_id)  # a kill came before its version
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
    client.finalize_logged_model(model.model_id, "READY")
    version = client.create_model_version(
        name,
        source=f"models:/{model.model_id}",
        run_id=search.run_id,
        model_id=model.model_id,
        tags=dict(card.lineage),
        description=spaced(card.body)[:_LONGEST_DESCRIPTION],
    )
    client.set_registered_model_alias(name, "champion", version.version)
    return str(version.version)


@retry_while_unavailable
def log_test_scores(
    search: SearchRef, checkpoint: CheckpointRef, scores: CheckpointScores, digests: Mapping[str, str]
) -> None:
    """Log the test scores on the champion's logged model; again, with the checkpoint's time, changes nothing."""
    client = client_of(search.tracking_uri)
    for model in _ready(client, search, _champion_of(search)):
        metrics = [
            Metric(
                key, value, checkpoint.published_at_ms, checkpoint.key.step, model_id=model.model_id,
                dataset_name=f"{name}/test", dataset_digest=digests[name], run_id=search.run_id,
            )
            for key, value, name in _score_values(scores, "test")
        ]  # fmt: skip
        client.log_batch(search.run_id, metrics=metrics)


def _champion_of(search: SearchRef) -> str:
    return f"source_run_id = '{search.run_id}' AND name = 'champion'"


def _versions(client: MlflowClient, name: str) -> list[Any]:
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_registered_model(name)
    return list(client.search_model_versions(f"name = '{name}'"))


def _name_of(key: CheckpointKey) -> str:
    return f"round-{key.round:03d}-step-{key.step:08d}"


def _ready(client: MlflowClient, search: SearchRef, condition: str) -> list[LoggedModel]:
    """Return the logged models that are READY; filtered here, since a filter on status matches nothing."""
    return [model for model in _search_models(client, search, condition) if _is_ready(model)]


def _is_ready(model: LoggedModel) -> bool:
    return str(model.status).endswith("READY")


def _search_models(client: MlflowClient, search: SearchRef, condition: str) -> list[LoggedModel]:
    models: list[LoggedModel] = []
    token = None
    while True:
        page = client.search_logged_models(
            [search.experiment_id], filter_string=condition, max_results=_PAGE, page_token=token
        )
        models.extend(page)
        token = page.token
        if not token:
            return models


def _find_model(
    client: MlflowClient, search: SearchRef, run_id: str, key: CheckpointKey
) -> LoggedModel | None:
    found = _ready(client, search, f"source_run_id = '{run_id}' AND name = '{_name_of(key)}'")
    return found[0] if found else None


def _require_model(client: MlflowClient, search: SearchRef, run_id: str, key: CheckpointKey) -> LoggedModel:
    model = _find_model(client, search, run_id, key)
    if model is None:
        ready = sorted(
            int(m.tags["msft.step"]) for m in _ready(client, search, f"source_run_id = '{run_id}'")
        )
        raise CheckpointNotFoundError(search.search_id, key.round, key.step, ready)
    return model


def _metric(model: LoggedModel | None, key: str) -> float | None:
    """Return the newest value of a metric; scoring a checkpoint again keeps the older one beside it."""
    values = [metric for metric in (model.metrics or []) if metric.key == key] if model is not None else []
    return float(max(values, key=lambda metric: metric.timestamp).value) if values else None
