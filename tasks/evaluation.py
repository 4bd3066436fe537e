"""Score the checkpoints of a round on every sub-dataset, and the champion on test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tasks.algorithm.curves import Curve, MetricPoint
from tasks.algorithm.state import CheckpointKey
from tasks.config.schema import SearchConfig
from tasks.contracts import (
    CheckpointRef,
    CheckpointScores,
    Mixture,
    RegisteredCheckpoint,
    RoundCurves,
    ScoreRequest,
    ScoreSpec,
    ScoreSplit,
    SearchRun,
    SplitRef,
    SubDatasetRef,
    SubDatasetScore,
)
from tasks.errors import EmptyCurveError
from tasks.planning.hidden_cache import hidden_states_folder
from tasks.record.events import total_cost
from tasks.record.paths import CHAMPION, SCORES, checkpoint_directory, round_directory, score_file_of
from tasks.record.rollout import MANIFEST, scores_in
from tasks.registry.checkpoints import log_scores, with_rows
from tasks.report import messages
from tasks.runtime.files import hash_file, make_folder, write_file
from tasks.runtime.launch import beside, run_module
from tasks.runtime.machine import has_accelerator
from tasks.stage import stage


@stage("evaluate checkpoints", run_name="evaluate round {checkpoints[0].key.round}")
def evaluate_checkpoints(
    search: SearchRun, checkpoints: Sequence[RegisteredCheckpoint], start: RegisteredCheckpoint | None
) -> RoundCurves:
    """Return the validation curves of all N sub-datasets, the excluded ones too, and log the scores in MLflow.

    Scores are those of the scorer, which loads the model once for all checkpoints. Checkpoints that were scored before
    an interruption keep the scores that MLflow holds. The first point is `start`, with the scores that the rollback
    found there; it is None for the base model, which then is one of the round's `checkpoints`.
    """
    scores = _scores_of(search, checkpoints)
    cost = total_cost([scores[checkpoint.key].cost for checkpoint in checkpoints])
    if start is not None and start.scores is not None:
        scores[start.key] = start.scores  # the decision knows its right and wrong rows from an earlier round
    by_loss = search.config.evaluation.selection == "loss"
    return RoundCurves(curves=curves_of(scores, search.inputs.names, by_loss=by_loss), cost=cost)


def _scores_of(search: SearchRun, checkpoints: Sequence[RegisteredCheckpoint]) -> dict[CheckpointKey, CheckpointScores]:
    """Return the scores of all checkpoints: from MLflow, else from their files, else from the scorer."""
    names = search.inputs.names
    directory = round_directory(search.ref.directory, checkpoints[0].key.round) / SCORES
    digests = {part.name: part.validation.sha256[:16] for part in search.inputs.sub_datasets}
    by_key = {checkpoint.key: checkpoint for checkpoint in checkpoints}
    held = [(c, c.scores) for c in checkpoints if c.scores is not None and _covers(c.scores, names)]
    scores = {checkpoint.key: with_rows(search.ref, checkpoint, found) for checkpoint, found in held}

    def record(found: CheckpointScores) -> None:
        log_scores(search.ref, by_key[found.key], found, digests)
        scores[found.key] = found

    requests = []
    for checkpoint in [c for c in checkpoints if c.key not in scores]:
        ahead = scores_in(directory, checkpoint.key, checkpoint.sha256)
        if ahead is not None and _covers(ahead, names):
            record(ahead)
        else:
            path = str(Path(search.ref.directory, checkpoint.directory))
            requests.append(ScoreRequest(key=checkpoint.key, directory=path, sub_datasets=names))
    if requests:
        spec = score_spec(search, requests, directory)
        _run_scoring(spec, record, f"evaluation of round {checkpoints[0].key.round}")
    return scores


def curves_of(
    scores: Mapping[CheckpointKey, CheckpointScores], names: Sequence[str], *, by_loss: bool
) -> tuple[Curve, ...]:
    """Return one curve a sub-dataset; a score is the accuracy, or the negated loss for selection by loss.

    Raises:
        EmptyCurveError: a checkpoint was not scored on a sub-dataset, or has no accuracy where one is needed.
    """
    by_name = {key: {score.sub_dataset: score for score in scores[key].scores} for key in sorted(scores)}
    return tuple(
        Curve(name, tuple(_point(key, held.get(name), name, by_loss) for key, held in by_name.items()))
        for name in names
    )


def _point(key: CheckpointKey, score: SubDatasetScore | None, name: str, by_loss: bool) -> MetricPoint:
    selected = None if score is None else -score.loss if by_loss else score.accuracy
    if score is None or selected is None:
        raise EmptyCurveError(f"{name} at {key}")
    correct = "" if by_loss else score.correct
    return MetricPoint(key, score=selected, loss=score.loss, num_examples=score.num_examples, correct=correct)


def _covers(scores: CheckpointScores, names: Sequence[str]) -> bool:
    return {*names} <= {score.sub_dataset for score in scores.scores}


@contextmanager
def scoring_beside(search: SearchRun, mixture: Mixture, first_step: int) -> Iterator[Callable[[], None]]:
    """Score the checkpoints of a roll-out while it runs; gives a function that prints what has been scored.

    The scores wait in files until `evaluate_checkpoints` logs them. A failure here costs only time: that stage scores
    the checkpoints without a file.
    """
    if not _is_beside(search.config):
        yield lambda: None
        return
    directory = round_directory(search.ref.directory, mixture.round)
    steps = [first_step + offset for offset in mixture.evaluation_offsets]
    if mixture.round == 0 and first_step == 0:
        steps.insert(0, 0)
    requests = [
        ScoreRequest(
            key=CheckpointKey(mixture.round, step),
            directory=str(checkpoint_directory(directory, step)),
            sub_datasets=search.inputs.names,
        )
        for step in steps
    ]
    spec = score_spec(search, requests, directory / SCORES)
    show = _reader(spec, lambda scores: None)
    with beside("tasks.workers.score", _write_spec(spec), threads=spec.threads, on_poll=show):
        yield show


def _is_beside(config: SearchConfig) -> bool:
    if config.evaluation.beside_training != "auto":
        return config.evaluation.beside_training == "yes"
    threads = config.training.threads
    cores_suffice = threads is not None and threads * (config.training.num_processes + 1) <= (os.cpu_count() or 1)
    return cores_suffice and (config.training.device == "cpu" or not has_accelerator())


def score_champion(search: SearchRun, checkpoint: CheckpointRef, test: Sequence[ScoreSplit]) -> CheckpointScores:
    """Export the champion as a transformers directory, and return the scores of the model loaded from there."""
    root = search.ref.directory
    names = tuple(split.name for split in test)
    request = ScoreRequest(key=checkpoint.key, directory=str(Path(root, checkpoint.directory)), sub_datasets=names)
    spec = score_spec(search, [request], Path(root, "test_scores"))
    update = {
        "splits": tuple(test),
        "end_splits": tuple(part.validation for part in search.inputs.sub_datasets),
        "export_directory": str(Path(root, CHAMPION)),
        "hidden_states": None,
    }
    spec = spec.model_copy(update=update)
    results: list[CheckpointScores] = []
    _run_scoring(spec, results.append, "export and test scores of the champion")
    return results[0]


def score_spec(search: SearchRun, requests: Sequence[ScoreRequest], directory: Path) -> ScoreSpec:
    """Return the spec to score checkpoints on validation, with `directory` for the scores."""
    config, inputs = search.config, search.inputs
    return ScoreSpec(
        search_id=search.ref.search_id,
        model=inputs.model,
        requests=tuple(requests),
        splits=tuple(split_to_score(part, part.validation) for part in inputs.sub_datasets),
        batch_tokens=config.evaluation.batch_tokens,
        threads=config.training.threads,
        device=config.training.device,
        precision=config.training.precision,
        export_directory=None,
        output_directory=str(directory),
        hidden_states=hidden_states_folder(config, inputs),
    )


def split_to_score(part: SubDatasetRef, split: SplitRef) -> ScoreSplit:
    """Return a split of a sub-dataset to score by its metric; texts have the room that validation needs."""
    return ScoreSplit(name=part.name, metric=part.metric, max_new_tokens=part.max_new_tokens, split=split)


def answer_spec(
    search: SearchRun, requests: Sequence[ScoreRequest], parts: Sequence[SubDatasetRef], directory: Path
) -> ScoreSpec:
    """Return the spec of answering the train rows of sub-datasets, each at the checkpoint that a request names."""
    splits = tuple(split_to_score(part, part.train) for part in parts)
    update = {"splits": splits, "keeps_answers": True, "hidden_states": None}  # which are kept for training's passes
    return score_spec(search, requests, directory).model_copy(update=update)


def _holds_scores(directory: Path, request: ScoreRequest) -> bool:
    manifest = Path(request.directory, MANIFEST)
    if not manifest.is_file():
        return False
    held = scores_in(directory, request.key, hash_file(manifest))
    return held is not None and _covers(held, request.sub_datasets)


def _write_spec(spec: ScoreSpec) -> Path:
    """Write the spec beside its output directory, in which only the scores that it requests stay.

    Scores made beside a roll-out are logged only at its end: a worker that is killed late must not cost them.
    """
    directory = Path(spec.output_directory)
    make_folder(directory)
    held = {score_file_of(request.key) for request in spec.requests if _holds_scores(directory, request)}
    for path in directory.iterdir():
        if path.name not in held:
            path.unlink()
    spec_path = directory.with_name(f"{directory.name}_spec.json")
    write_file(spec_path, spec.model_dump_json(indent=1))
    return spec_path


def _run_scoring(spec: ScoreSpec, record: Callable[[CheckpointScores], None], name: str) -> None:
    """Run the scoring worker and hand each checkpoint's scores to `record` as soon as they appear."""
    run_scorer("tasks.workers.score", spec, _write_spec(spec), record, name)


def run_scorer(
    module: str, spec: ScoreSpec, spec_path: Path, record: Callable[[CheckpointScores], None], name: str
) -> None:
    """Run a module that scores checkpoints by a spec, which is in `spec_path`, as `_run_scoring`."""
    with messages.stage_progress("scoring", len(spec.requests)) as advance:

        def count(scores: CheckpointScores) -> None:
            record(scores)
            advance()

        poll = _reader(spec, count)
        run_module(
            module,
            spec_path,
            name=name,
            threads=spec.threads,
            on_poll=poll,
            progress=lambda: len(list(Path(spec.output_directory).glob("round-*.json"))),
        )


def _reader(spec: ScoreSpec, record: Callable[[CheckpointScores], None]) -> Callable[[], None]:
    """Return a function that prints and records each checkpoint's scores once."""
    seen: set[Path] = set()
    keys = [request.key for request in spec.requests]

    def poll() -> None:
        for path in sorted(Path(spec.output_directory).glob("round-*.json")):
            if path not in seen:
                seen.add(path)
                scores = CheckpointScores.model_validate_json(path.read_text())
                record(scores)
                messages.show_scores(scores, keys)

    return poll
