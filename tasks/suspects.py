"""Find suspect rows: answer the train rows of each sub-dataset with the checkpoint at its peak."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import TypeAdapter

from tasks.algorithm.answers import Answer
from tasks.algorithm.state import CheckpointKey
from tasks.contracts import CheckpointRef, CheckpointScores, RoundCurves, ScoreRequest, SearchRun, SubDatasetRef
from tasks.data.places import train_places
from tasks.data.tokenization import read_tokenized
from tasks.evaluation import answer_spec
from tasks.record.events import total_cost
from tasks.record.journal import History
from tasks.record.paths import ANSWERS, BASE, SUSPECTS, round_directory, score_file_of
from tasks.record.suspects import RoundSuspects, Suspect, Suspects
from tasks.runtime.files import make_folder, write_file
from tasks.runtime.launch import run_module
from tasks.stage import stage


@stage("find suspect rows", run_name="find suspect rows of round {checkpoints[0].key.round}")
def find_suspects(
    search: SearchRun, history: History, curves: RoundCurves, checkpoints: Sequence[CheckpointRef]
) -> RoundCurves:
    """Return the curves with the cost of answering train rows, whose suspects are written to the round's directory.

    Answered are those of each sub-dataset whose best score so far lies in this round: later checkpoints memorise wrong
    labels. A round that has its file is not answered again.
    """
    directory = round_directory(search.ref.directory, history.state.round)
    path = directory / SUSPECTS
    if not path.is_file():
        write_file(path, _answered(search, new_peaks(history, curves), checkpoints, directory).model_dump_json())
    cost = RoundSuspects.model_validate_json(path.read_text()).cost
    return curves.model_copy(update={"cost": total_cost([curves.cost, cost])})


def new_peaks(history: History, curves: RoundCurves) -> dict[str, CheckpointKey]:
    """Return the checkpoint at the peak of each sub-dataset that is better in this round than in all before.

    One whose best is the base model has learned nothing, and so no row of it is suspect.
    """
    before: dict[str, float] = {}
    for curve in (curve for told in history.rounds for curve in told.curves):
        before[curve.sub_dataset] = max(before.get(curve.sub_dataset, curve.peak.score), curve.peak.score)
    return {
        curve.sub_dataset: curve.peak.checkpoint
        for curve in curves.curves
        if curve.peak.checkpoint != BASE and curve.peak.score > before.get(curve.sub_dataset, -float("inf"))
    }


def _answered(
    search: SearchRun, peaks: Mapping[str, CheckpointKey], checkpoints: Sequence[CheckpointRef], directory: Path
) -> RoundSuspects:
    parts = {p.name: p for p in search.inputs.sub_datasets if p.name in peaks and p.metric != "loss"}
    output = directory / "suspects"
    shutil.rmtree(output, ignore_errors=True)  # what a killed worker left
    make_folder(output)
    requests = [
        ScoreRequest(
            key=checkpoint.key,
            directory=str(Path(search.ref.directory, checkpoint.directory)),
            sub_datasets=tuple(name for name in parts if peaks[name] == checkpoint.key),
        )
        for checkpoint in checkpoints
        if any(peaks[name] == checkpoint.key for name in parts)
    ]
    if not requests:
        return RoundSuspects(found=(), cost=total_cost([]))
    spec = answer_spec(search, requests, tuple(parts.values()), output)
    spec_path = directory / "suspects_spec.json"
    write_file(spec_path, spec.model_dump_json(indent=1))
    run_module("tasks.workers.score", spec_path, name="answers to train rows", threads=spec.threads)
    answers = TypeAdapter(dict[str, list[Answer]]).validate_json((output / ANSWERS).read_text())
    scores = [CheckpointScores.model_validate_json((output / score_file_of(r.key)).read_text()) for r in requests]
    return RoundSuspects(
        found=tuple(_suspects_of(search, part, peaks[name], answers[name]) for name, part in parts.items()),
        cost=total_cost([one.cost for one in scores]),
    )


def _suspects_of(search: SearchRun, part: SubDatasetRef, key: CheckpointKey, answers: Sequence[Answer]) -> Suspects:
    labels = read_tokenized(part.train)["answer" if part.metric == "numeric" else "completion"]
    places = train_places(search.config, search.inputs.model, part)
    rows = [
        Suspect(row=row, where=where, label=label, answer=answer.text, loss=answer.loss or 0.0)
        for row, (answer, label, where) in enumerate(zip(answers, labels, places, strict=True))
        if not answer.is_correct
    ]
    rows.sort(key=lambda row: (-row.loss, row.row))
    return Suspects(sub_dataset=part.name, key=key, num_rows=len(answers), rows=tuple(rows))
