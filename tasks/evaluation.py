"""Score every checkpoint of a round on every sub-dataset, and score the champion on test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tasks.algorithm.curves import Curve, MetricPoint
from tasks.algorithm.state import CheckpointKey
from tasks.config.schema import SearchConfig
from tasks.contracts import (
    CheckpointRef,
    CheckpointScores,
    EvaluationCost,
    Inputs,
    Mixture,
    RolloutResult,
    RoundCurves,
    ScoreRequest,
    ScoreSpec,
    ScoreSplit,
    SearchRef,
)
from tasks.errors import EmptyCurveError
from tasks.record.checkpoints import MANIFEST, checkpoint_directory, score_file_of
from tasks.registry.checkpoints import LoggedScores, log_scores, logged_scores
from tasks.report import terminal
from tasks.runtime.files import hash_file, make_folder, write_file
from tasks.runtime.gpus import has_accelerator
from tasks.runtime.launch import beside, run_module
from tasks.stage import stage


@stage("evaluate checkpoints", run_name="evaluate round {rollout.round}")
def evaluate_checkpoints(
    config: SearchConfig, search: SearchRef, inputs: Inputs, rollout: RolloutResult
) -> RoundCurves:
    """Return the validation curves of all N sub-datasets, the excluded ones too, as MLflow holds them.

    Only what MLflow does not hold yet is scored, with one model load for all checkpoints. The point at the
    round's start is the checkpoint that the roll-out began from, scored when it was published.
    """
    directory = search.round_directory(rollout.round) / "scores"
    checkpoints = {checkpoint.key: checkpoint for checkpoint in rollout.checkpoints}
    digests = {part.name: part.validation.sha256[:16] for part in inputs.sub_datasets}

    def record(scores: CheckpointScores) -> None:
        log_scores(search, checkpoints[scores.key], scores, digests)

    requests = []
    for request in _missing(search, inputs, rollout.checkpoints):
        ahead = _scores_in(directory, request.key, checkpoints[request.key].sha256)
        if ahead is not None:
            record(ahead)
        else:
            requests.append(request)
    if requests:
        spec = _spec(config, search, inputs, requests, directory)
        _run_scoring(spec, record, f"evaluation of round {rollout.round}")
    return _read_curves(config, search, inputs, rollout)


@contextmanager
def scoring_beside(
    config: SearchConfig, search: SearchRef, inputs: Inputs, mixture: Mixture, first_step: int
) -> Iterator[Callable[[], None]]:
    """Score the checkpoints of a roll-out while it goes on; gives a function that prints what has been scored.

    The scores wait in files until `evaluate_checkpoints` puts them on record. Whatever goes wrong here costs only
    time: that task scores what it does not find.
    """
    if not _is_beside(config):
        yield lambda: None
        return
    directory = search.round_directory(mixture.round)
    steps = [first_step + offset for offset in mixture.evaluation_offsets]
    if mixture.round == 0 and first_step == 0:
        steps.insert(0, 0)
    requests = [
        ScoreRequest(
            key=CheckpointKey(mixture.round, step),
            directory=str(checkpoint_directory(directory, step)),
            sub_datasets=inputs.names,
        )
        for step in steps
    ]
    spec = _spec(config, search, inputs, requests, directory / "scores")
    show = _reader(spec, lambda scores: None)
    with beside("tasks.workers.score", _write_spec(spec), threads=spec.threads, on_poll=show):
        yield show


def _is_beside(config: SearchConfig) -> bool:
    if config.evaluation.beside_training != "auto":
        return config.evaluation.beside_training == "yes"
    threads = config.training.threads
    cores_suffice = threads is not None and threads * (config.training.num_processes + 1) <= (
        os.cpu_count() or 1
    )
    return cores_suffice and (config.training.device == "cpu" or not has_accelerator())


def score_champion(
    config: SearchConfig,
    search: SearchRef,
    inputs: Inputs,
    checkpoint: CheckpointRef,
    test: Sequence[ScoreSplit],
) -> CheckpointScores:
    """Export the champion as a transformers directory, and return its scores as loaded from there."""
    export = Path(search.directory, "champion")
    names = tuple(split.name for split in test)
    request = ScoreRequest(
        key=checkpoint.key, directory=str(Path(search.directory, checkpoint.directory)), sub_datasets=names
    )
    spec = _spec(config, search, inputs, [request], Path(search.directory, "test_scores"))
    spec = spec.model_copy(update={"splits": tuple(test), "export_directory": str(export)})
    results: list[CheckpointScores] = []
    _run_scoring(spec, results.append, "export and test scores of the champion")
    return results[0]


def _missing(search: SearchRef, inputs: Inputs, checkpoints: Sequence[CheckpointRef]) -> list[ScoreRequest]:
    requests = []
    for checkpoint in checkpoints:
        held = logged_scores(search, checkpoint.key)
        names = tuple(name for name in inputs.names if held.value("num_examples", name) is None)
        if names:
            directory = str(Path(search.directory, checkpoint.directory))
            requests.append(ScoreRequest(key=checkpoint.key, directory=directory, sub_datasets=names))
    return requests


def _spec(
    config: SearchConfig, search: SearchRef, inputs: Inputs, requests: Sequence[ScoreRequest], directory: Path
) -> ScoreSpec:
    return ScoreSpec(
        search_id=search.search_id,
        model=inputs.model,
        requests=tuple(requests),
        splits=tuple(
            ScoreSplit(
                name=part.name, metric=part.metric, max_new_tokens=part.max_new_tokens, split=part.validation
            )
            for part in inputs.sub_datasets
        ),
        batch_tokens=config.evaluation.batch_tokens,
        threads=config.training.threads,
        device=config.training.device,
        precision=config.training.precision,
        export_directory=None,
        output_directory=str(directory),
    )


def _scores_in(directory: Path, key: CheckpointKey, sha256: str) -> CheckpointScores | None:
    """Return the scores that were made of this very checkpoint before, beside its training for one."""
    try:
        scores = CheckpointScores.model_validate_json((directory / score_file_of(key)).read_text())
    except (FileNotFoundError, ValueError):  # a damaged file costs a scoring, not the search
        return None
    return scores if scores.sha256 == sha256 else None


def _holds_scores(directory: Path, request: ScoreRequest) -> bool:
    manifest = Path(request.directory, MANIFEST)
    if not manifest.is_file():
        return False
    held = _scores_in(directory, request.key, hash_file(manifest))
    return held is not None and {*request.sub_datasets} <= {score.sub_dataset for score in held.scores}


def _write_spec(spec: ScoreSpec) -> Path:
    """Leave in the output directory what the requests ask for and is there already; write the spec beside it.

    Scores made beside a roll-out are on record only at its end: a worker that is killed late must not cost them.
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
    spec_path = _write_spec(spec)
    with terminal.stage_progress("scoring", len(spec.requests)) as advance:

        def count(scores: CheckpointScores) -> None:
            record(scores)
            advance()

        poll = _reader(spec, count)
        run_module(
            "tasks.workers.score",
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
                terminal.show_scores(scores, keys)

    return poll


def _read_curves(
    config: SearchConfig, search: SearchRef, inputs: Inputs, rollout: RolloutResult
) -> RoundCurves:
    own = [checkpoint.key for checkpoint in rollout.checkpoints]
    keys = sorted({rollout.start, *own})
    held = {key: logged_scores(search, key) for key in keys}
    curves = []
    for name in inputs.names:
        points = tuple(_point(config, key, held[key], name) for key in keys)
        curves.append(Curve(name, points))
    costs = [held[key].cost() for key in own]
    total = EvaluationCost(
        num_tokens=sum(cost.num_tokens for cost in costs),
        num_examples=sum(cost.num_examples for cost in costs),
        flops=sum(cost.flops for cost in costs),
        seconds=sum(cost.seconds for cost in costs),
    )
    return RoundCurves(curves=tuple(curves), cost=total)


def _point(config: SearchConfig, key: CheckpointKey, held: LoggedScores, name: str) -> MetricPoint:
    loss, count = held.value("loss", name), held.value("num_examples", name)
    accuracy = held.value("accuracy", name)
    if loss is None or count is None or (accuracy is None and config.evaluation.selection == "accuracy"):
        raise EmptyCurveError(f"{name} at {key}")
    score = -loss if config.evaluation.selection == "loss" or accuracy is None else accuracy
    return MetricPoint(checkpoint=key, score=score, loss=loss, num_examples=int(count))
