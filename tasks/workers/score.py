"""Score checkpoints on splits: `python -m tasks.workers.score score_spec.json`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tasks.algorithm.answers import Answer
from tasks.algorithm.state import CheckpointKey
from tasks.contracts import CheckpointScores, EvaluationCost, ScoreSpec, ScoreSplit
from tasks.record.paths import ANSWERS, BASE, score_file_of
from tasks.record.rollout import MANIFEST, verify
from tasks.runtime.files import hash_file, make_folder, publish_folder, write_file
from tasks.runtime.spans import span
from tasks.workers.generation import end_tokens, greedy_settings
from tasks.workers.kept import keep, leaves_room, take
from tasks.workers.model import (
    choose_device,
    load_base,
    load_tokenizer,
    load_weights,
    load_whole,
    scored_file,
    shape_of,
)
from tasks.workers.row_trees import read_rows
from tasks.workers.scoring import Cost, Scorer
from tasks.workers.supervisor import run_worker

_POLL_S = 0.05
_KIND = "scored model"  # of what is kept from one request to the next


def score(spec_path: Path) -> None:
    """Score the requests of a spec with one loaded model; the scores of each are written to a file when done."""
    spec = ScoreSpec.model_validate_json(spec_path.read_text())
    output = Path(spec.output_directory)
    make_folder(output)
    with open_scorer(spec) as scorer:
        scorer.answers = {} if spec.keeps_answers else None
        for request in spec.requests:
            if (output / score_file_of(request.key)).exists() and not spec.keeps_answers:
                continue  # scored before this worker was preempted; answers are written at the end, all together
            _wait_for(Path(request.directory))
            if spec.export_directory is None:
                _load_scored(scorer.model, Path(request.directory))
            splits = [split for split in spec.splits if split.name in request.sub_datasets]
            score_model(scorer, splits, request.key, hash_file(Path(request.directory, MANIFEST)), output)
        if not spec.requests:
            score_model(scorer, spec.splits, BASE, spec.model.sha256, output)
        if scorer.answers is not None:
            write_file(output / ANSWERS, TypeAdapter(dict[str, list[Answer]]).dump_json(scorer.answers))


@contextmanager
def open_scorer(spec: ScoreSpec) -> Iterator[Scorer]:
    """Give the scorer of a spec, of the exported model if it asks for one; the model is kept after a whole block."""
    device, key = choose_device(spec.device), _key(spec)
    with span("model loading"):
        model, tokenizer = take(_KIND, key) or (load_base(spec.model), load_tokenizer(spec.model))
    shape = shape_of(model)
    shown = (*spec.end_splits, *(split.split for split in spec.splits))
    ends = end_tokens(tokenizer, [row for split in shown for row in read_rows(split.directory)])
    if spec.export_directory is not None:
        model = _export(model, spec, tokenizer, ends)
    scorer = Scorer(model.to(device), tokenizer, spec.batch_tokens, shape, autocast=spec.precision == "bf16", ends=ends)
    scorer.hidden_states = spec.hidden_states
    yield scorer
    if key is not None and leaves_room(device):
        keep(_KIND, key, (model, tokenizer))


def _key(spec: ScoreSpec) -> tuple[object, ...] | None:
    """Return what the model is kept by; None where it has to be loaded anew and is not kept.

    The weights of each checkpoint replace those of the one before. The base model has its own; an export changes it.
    """
    return (spec.model, spec.device) if spec.requests and spec.export_directory is None else None


@span("waits")
def _wait_for(directory: Path) -> None:
    """Wait until the running roll-out has published the checkpoint; the owner ends this process if it never does."""
    while not directory.exists():
        time.sleep(_POLL_S)


def score_model(scorer: Scorer, splits: Sequence[ScoreSplit], key: CheckpointKey, sha256: str, output: Path) -> None:
    """Score the model as it is, and write the scores to the file of `key`; `sha256` tells which weights it has."""
    began = time.monotonic()
    scorer.cost = Cost()
    with span("scoring") as figures:
        scores = tuple(scorer.score_all(splits))
        figures.update({name: value for name, value in vars(scorer.cost).items() if isinstance(value, int)})
    cost = EvaluationCost(
        num_tokens=scorer.cost.num_tokens,
        num_examples=sum(score.num_examples for score in scores),
        flops=scorer.cost.flops,
        seconds=time.monotonic() - began,
    )
    result = CheckpointScores(key=key, sha256=sha256, scores=scores, cost=cost)
    write_file(output / score_file_of(key), result.model_dump_json())


@span("model loading")
def _load_scored(model: Any, directory: Path) -> None:
    file = scored_file(directory)
    verify(directory, only=file)
    load_weights(model, directory, file)


def _export(model: Any, spec: ScoreSpec, tokenizer: Any, ends: frozenset[int]) -> Any:
    """Write the requested checkpoint as a transformers directory and return the model loaded from it.

    Its generation ends as in scoring, with one of `ends`.
    """
    assert spec.export_directory is not None
    directory = Path(spec.export_directory)
    source = Path(spec.requests[0].directory)
    _load_scored(model, source)
    if spec.model.lora is not None:
        model = model.merge_and_unload()
    model.generation_config = greedy_settings(tokenizer, ends)

    def write(staging: Path) -> None:
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)

    publish_folder(directory, write, "the champion")
    return load_whole(spec.model, directory)


if __name__ == "__main__":
    sys.exit(run_worker(score, Path(sys.argv[1])))
