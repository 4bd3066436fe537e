"""Give the rows of an excluded sub-dataset the answers of the checkpoint at its peak, once it is decided."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from pydantic import TypeAdapter

from tasks.algorithm.answers import Answer
from tasks.algorithm.state import CheckpointKey
from tasks.contracts import BY_CHOICES, CheckpointScores, ScoreRequest, SearchRef, SearchRun, SplitRef, SubDatasetRef
from tasks.data.relabelling import relabel
from tasks.data.tokenization import longest_completion, read_tokenized
from tasks.evaluation import score_spec, split_to_score
from tasks.freezing import compute_frozen_layers
from tasks.planning.hidden_cache import added_flops, keeps_hidden_states
from tasks.record.events import RowsRelabelled
from tasks.record.journal import History, append_event
from tasks.record.paths import ANSWERS, RELABELLED, checkpoint_directory, round_directory, score_file_of
from tasks.runtime.files import write_file
from tasks.runtime.launch import run_module
from tasks.stage import stage

logger = logging.getLogger(__name__)


def relabelled(search: SearchRun, history: History) -> History:
    """Return the history after all rows that the state wants relabelled are; a search that is over needs none."""
    for name, checkpoint in history.unlabelled.items() if not history.state.is_finished else ():
        history = history.after(relabel_rows(search, history.state.round, name, checkpoint))
    return history


def relabelled_splits(search: SearchRef, history: History) -> dict[str, SplitRef | None]:
    """Return the relabelled rows by sub-dataset; None where no row is left."""
    return {name: _in_place(search, event.split) for name, event in history.relabelled.items()}


def _in_place(search: SearchRef, split: SplitRef | None) -> SplitRef | None:
    """Return a split of the journal with the directory that it has now, which moves with the search."""
    if split is None:
        return None
    return split.model_copy(update={"directory": str(Path(search.directory, split.directory).resolve())})


@stage("relabel rows", run_name="relabel rows of {name}")
def relabel_rows(search: SearchRun, round_index: int, name: str, checkpoint: CheckpointKey) -> RowsRelabelled:
    """Score all train rows of a sub-dataset with one checkpoint, and record its answers as their labels.

    Choices: the best one. Generated answers: the label where the answer is right; else the row is left out.

    Raises:
        WorkerError: the worker failed.
    """
    part = next(part for part in search.inputs.sub_datasets if part.name == name)
    scores, answers = _answers(search, part, checkpoint)
    made = relabel(part.train, answers, Path(search.ref.directory, RELABELLED))
    split, flops = made.split, scores.cost.flops
    if split is not None:
        if keeps_hidden_states(search.config, search.inputs):
            compute_frozen_layers.fn(search, {name: split})
        flops += added_flops(search.config, search.inputs, split)
        split = split.model_copy(update={"directory": str(Path(RELABELLED, Path(split.directory).name))})
    logger.info(
        f"{name}: rehearsed with the answers of {checkpoint}: {made.num_changed} of {part.train.num_rows} rows have "
        f"another than their label, {made.num_left_out} are left out"
    )
    event = RowsRelabelled(
        round=round_index,
        sub_dataset=name,
        checkpoint=checkpoint,
        split=split,
        num_changed=made.num_changed,
        num_left_out=made.num_left_out,
        cost=scores.cost.model_copy(update={"flops": flops}),
    )
    return append_event(search.ref.directory, event)


def _answers(
    search: SearchRun, part: SubDatasetRef, checkpoint: CheckpointKey
) -> tuple[CheckpointScores, list[int | None]]:
    """Return the scores of a checkpoint on the train rows, and its answer to each row, as `relabel` takes them."""
    limit = max(part.max_new_tokens, longest_completion(part.train))
    split = split_to_score(part, part.train).model_copy(update={"max_new_tokens": limit})
    directory = checkpoint_directory(round_directory(search.ref.directory, checkpoint.round), checkpoint.step)
    request = ScoreRequest(key=checkpoint, directory=str(directory), sub_datasets=(part.name,))
    output = Path(search.ref.directory, RELABELLED, "answers")
    shutil.rmtree(output, ignore_errors=True)
    has_choices = part.metric in BY_CHOICES
    update = {
        "splits": (split,),
        "end_splits": tuple(one.validation for one in search.inputs.sub_datasets),
        "keeps_answers": has_choices,
        "hidden_states": None,
    }
    spec = score_spec(search, [request], output).model_copy(update=update)
    spec_path = output.with_name("answers_spec.json")
    write_file(spec_path, spec.model_dump_json(indent=1))
    run_module("tasks.workers.score", spec_path, name=f"answers to the rows of {part.name}", threads=spec.threads)
    scores = CheckpointScores.model_validate_json((output / score_file_of(checkpoint)).read_text())
    (own,) = scores.scores
    if not has_choices:
        return scores, [-1 if flag == "1" else None for flag in own.correct]
    told = TypeAdapter(dict[str, list[Answer]]).validate_json((output / ANSWERS).read_text())
    choices = read_tokenized(part.train).data.table["choices"].to_pylist()
    return scores, [of_row.index(a.text) for of_row, a in zip(choices, told[part.name], strict=True)]
