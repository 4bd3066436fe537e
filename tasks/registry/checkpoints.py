"""Checkpoints and their scores as logged models in MLflow; the rollback queries them here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Metric

from tasks.algorithm.state import CheckpointKey
from tasks.contracts import (
    CheckpointRef,
    CheckpointScores,
    EvaluationCost,
    IntervalStats,
    RegisteredCheckpoint,
    SearchRef,
    SubDatasetScore,
)
from tasks.errors import CheckpointNotFoundError
from tasks.registry.client import client_of, retry_for, retry_while_unavailable
from tasks.registry.runs import log_training

_PAGE = 100
_CHECKPOINT = "msft-checkpoint"  # its model type
_ROWS = "correct"  # folder of a round's run: which rows each checkpoint answers as labelled
_NUM_EXAMPLES = "validation/num_examples/"  # on a checkpoint's model; a flat line on the search's run


class RoundCheckpoints:
    """Registers the checkpoints of the round with this MLflow run, each once, and knows which of them MLflow holds.

    MLflow is asked for the round's models once, and again only after a request has failed: a lost answer may have left
    a model behind.
    """

    def __init__(self, search: SearchRef, run_id: str) -> None:
        self._search, self._run_id = search, run_id
        self._models: list[LoggedModel] | None = None

    def register(
        self, checkpoints: Sequence[CheckpointRef], intervals: Sequence[IntervalStats]
    ) -> tuple[RegisteredCheckpoint, ...]:
        """Register those that MLflow does not hold, each after the interval that led to it; return all of them."""
        trained = {interval.key: interval for interval in intervals}
        uri, patience_s = self._search.tracking_uri, self._search.outage_s
        return tuple(
            retry_for(uri, patience_s, partial(self._register, checkpoint, trained.get(checkpoint.key)))
            for checkpoint in checkpoints
        )

    def _register(self, checkpoint: CheckpointRef, interval: IntervalStats | None) -> RegisteredCheckpoint:
        client = client_of(self._search.tracking_uri)
        models = self._models
        if models is None:
            models = _search_models(client, self._search, f"source_run_id = '{self._run_id}'")
        self._models = None
        namesakes = [model for model in models if model.name == _name_of(checkpoint.key)]
        held = next((model for model in namesakes if _holds(model, checkpoint)), None)
        if held is None:
            # A model that a kill left unfinished, or whose files were damaged and trained again.
            for model in namesakes:
                client.delete_logged_model(model.model_id)
            if interval is not None:
                log_training(self._search, self._run_id, interval, checkpoint.published_at_ms)
            held = create_checkpoint(client, self._search, self._run_id, checkpoint)
            models = [*(model for model in models if model not in namesakes), held]
        self._models = models
        return _registered(held)


def create_checkpoint(client: MlflowClient, search: SearchRef, run_id: str, checkpoint: CheckpointRef) -> LoggedModel:
    """Create the READY logged model of a published checkpoint."""
    key = checkpoint.key
    model = client.create_logged_model(
        search.experiment_id,
        name=_name_of(key),
        source_run_id=run_id,
        model_type=_CHECKPOINT,
        params={"round": str(key.round), "step": str(key.step), "checkpoint": checkpoint.model_dump_json()},
        tags={"msft.search_id": search.search_id, "msft.round": str(key.round), "msft.step": str(key.step)},
    )
    return client.finalize_logged_model(model.model_id, "READY")


@retry_while_unavailable
def log_scores(
    search: SearchRef, checkpoint: RegisteredCheckpoint, scores: CheckpointScores, digests: Mapping[str, str]
) -> None:
    """Log the validation scores of a checkpoint on its logged model and its round's run.

    Logging them again changes nothing, since their time stamp is the checkpoint's. Scores must be finite: MLflow
    stores NaN as 0.0, so that a diverged checkpoint would have the lowest loss.

    Args:
        digests: data set digest of every sub-dataset of the search.
    """
    stamp, step, model_id = checkpoint.published_at_ms, checkpoint.key.step, checkpoint.model_id
    metrics = score_metrics(scores, "validation", digests, stamp, model_id, checkpoint.run_id)
    means = means_of(scores) if len(scores.scores) == len(digests) else {}
    costs = {f"evaluation/{key}": float(value) for key, value in scores.cost.model_dump().items()}
    metrics += [Metric(key, value, stamp, step, model_id=model_id) for key, value in (means | costs).items()]
    assert all(math.isfinite(metric.value) for metric in metrics)
    client = client_of(search.tracking_uri)
    # The file first: a checkpoint that has its metrics counts as scored.
    correct = {score.sub_dataset: score.correct for score in scores.scores}
    client.log_dict(checkpoint.run_id, correct, _rows_file(step))
    client.log_batch(checkpoint.run_id, metrics=metrics)


@retry_while_unavailable
def with_rows(search: SearchRef, checkpoint: RegisteredCheckpoint, scores: CheckpointScores) -> CheckpointScores:
    """Return the logged scores of a checkpoint with its right and wrong rows; without them if they were deleted."""
    client, file = client_of(search.tracking_uri), _rows_file(checkpoint.key.step)
    if file not in [artifact.path for artifact in client.list_artifacts(checkpoint.run_id, _ROWS)]:
        return scores
    with TemporaryDirectory() as folder:
        correct = json.loads(Path(client.download_artifacts(checkpoint.run_id, file, folder)).read_text())
    rows = tuple(one.model_copy(update={"correct": correct.get(one.sub_dataset, "")}) for one in scores.scores)
    return scores.model_copy(update={"scores": rows})


def _rows_file(step: int) -> str:
    return f"{_ROWS}/step-{step:08d}.json"


def score_metrics(
    scores: CheckpointScores, split: str, digests: Mapping[str, str], stamp_ms: int, model_id: str, run_id: str
) -> list[Metric]:
    """Return the scores as metrics of a model and a run; run charts need the sub-dataset in the key."""
    metrics = []
    for score in scores.scores:
        name = score.sub_dataset
        links = {"model_id": model_id, "dataset_name": f"{name}/{split}", "dataset_digest": digests[name]}
        values = {"loss": score.loss, "num_examples": float(score.num_examples), "accuracy": score.accuracy}
        metrics += [
            Metric(f"{split}/{kind}/{name}", value, stamp_ms, scores.key.step, run_id=run_id, **links)
            for kind, value in values.items()
            if value is not None
        ]
    return metrics


def means_of(scores: CheckpointScores) -> dict[str, float]:
    """Return the means over all sub-datasets, by which the models page sorts."""
    held = scores.scores
    means = {"validation/mean_loss": math.fsum(score.loss for score in held) / len(held)}
    accuracies = [score.accuracy for score in held if score.accuracy is not None]
    if len(accuracies) == len(held):
        means["validation/mean_accuracy"] = math.fsum(accuracies) / len(held)
    return means


@retry_while_unavailable
def find_checkpoint(search: SearchRef, key: CheckpointKey) -> RegisteredCheckpoint:
    """Return the READY checkpoint of this key with its logged scores.

    Raises:
        CheckpointNotFoundError: there is none; the message names the READY steps of the round.
    """
    client = client_of(search.tracking_uri)
    found = _ready(client, search, f"{_of_search(search)} AND name = '{_name_of(key)}'")
    if not found:
        steps = sorted(int(model.tags["msft.step"]) for model in _ready(client, search, _of_round(search, key.round)))
        raise CheckpointNotFoundError(search.search_id, key.round, key.step, steps)
    return _registered(max(found, key=lambda model: model.creation_timestamp))


@retry_while_unavailable
def accept_path(search: SearchRef, round_index: int, target: CheckpointKey, intervals: Sequence[IntervalStats]) -> str:
    """Mark the checkpoints of a round that led to `target`, and copy their points to the search's run.

    Args:
        target: the checkpoint that the round rolls back to.
        intervals: the training of the round.
    Returns:
        The id of the round's run.
    Raises:
        CheckpointNotFoundError: MLflow holds no READY checkpoint of the round.
    """
    client = client_of(search.tracking_uri)
    models = _ready(client, search, _of_round(search, round_index))
    if not models:
        raise CheckpointNotFoundError(search.search_id, round_index, target.step, [])
    accepted: dict[CheckpointKey, int] = {}
    points: list[Metric] = []
    for model in models:
        checkpoint = _registered(model)
        is_accepted = target.round == round_index and checkpoint.key.step <= target.step
        client.set_logged_model_tags(model.model_id, {"msft.path": "accepted" if is_accepted else "discarded"})
        if is_accepted:
            accepted[checkpoint.key] = checkpoint.published_at_ms
            points += [
                Metric(point.key, point.value, point.timestamp, point.step)
                for point in model.metrics or []
                if point.key.startswith("validation/") and not point.key.startswith(_NUM_EXAMPLES)
            ]
    client.log_batch(search.run_id, metrics=points)
    for interval in intervals:
        if interval.key in accepted:
            log_training(search, search.run_id, interval, accepted[interval.key])
    return str(models[0].source_run_id)


def _of_search(search: SearchRef) -> str:
    return f"tags.`msft.search_id` = '{search.search_id}'"


def _of_round(search: SearchRef, round_index: int) -> str:
    return f"{_of_search(search)} AND tags.`msft.round` = '{round_index}'"


def _name_of(key: CheckpointKey) -> str:
    return f"round-{key.round:03d}-step-{key.step:08d}"


def _ready(client: MlflowClient, search: SearchRef, condition: str) -> list[LoggedModel]:
    """Return the READY checkpoints; filtered here, since MLflow's filter on status matches nothing.

    The champion's own model has the tags of its checkpoint too.
    """
    models = _search_models(client, search, condition)
    return [model for model in models if _is_ready(model) and model.model_type == _CHECKPOINT]


def _is_ready(model: LoggedModel) -> bool:
    return str(model.status).endswith("READY")


def _holds(model: LoggedModel, checkpoint: CheckpointRef) -> bool:
    return _is_ready(model) and CheckpointRef.model_validate_json(model.params["checkpoint"]) == checkpoint


def _search_models(client: MlflowClient, search: SearchRef, condition: str) -> list[LoggedModel]:
    ask = partial(client.search_logged_models, [search.experiment_id], filter_string=condition, max_results=_PAGE)
    page = ask()
    models = list(page)
    while page.token:
        page = ask(page_token=page.token)
        models.extend(page)
    return models


def _registered(model: LoggedModel) -> RegisteredCheckpoint:
    checkpoint = CheckpointRef.model_validate_json(model.params["checkpoint"])
    return RegisteredCheckpoint(
        **dict(checkpoint),
        run_id=str(model.source_run_id),
        model_id=model.model_id,
        scores=_logged_scores(model, checkpoint.key),
    )


def _logged_scores(model: LoggedModel, key: CheckpointKey) -> CheckpointScores | None:
    """Return the scores on a logged model, without the single rows; None if there are none."""
    # The newest value counts: a checkpoint that is scored again keeps the older one beside it.
    held = {m.key: m.value for m in sorted(model.metrics or [], key=lambda metric: metric.timestamp)}
    names = sorted(key.removeprefix(_NUM_EXAMPLES) for key in held if key.startswith(_NUM_EXAMPLES))
    if not names:
        return None
    scores = tuple(
        SubDatasetScore(
            sub_dataset=name,
            accuracy=held.get(f"validation/accuracy/{name}"),
            loss=held[f"validation/loss/{name}"],
            num_examples=int(held[f"{_NUM_EXAMPLES}{name}"]),
            correct="",
        )
        for name in names
    )
    fields = EvaluationCost.model_fields
    cost = {field: held[f"evaluation/{field}"] for field in fields if f"evaluation/{field}" in held}
    return CheckpointScores(key=key, sha256="", scores=scores, cost=EvaluationCost.model_validate(cost))
