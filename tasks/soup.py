"""Average the checkpoints of a search that is over by a greedy soup; only validation is opened."""

from __future__ import annotations

from pathlib import Path

from tasks.algorithm.curves import mean_scores
from tasks.algorithm.soup import order_of
from tasks.contracts import CheckpointScores, EvaluationCost, ScoreRequest, SearchRun
from tasks.evaluation import run_scorer, score_spec
from tasks.record.events import Soup, SoupSpec
from tasks.record.journal import History
from tasks.record.paths import SCORES, SOUP, SOUP_RESULT, checkpoint_directory, round_directory, score_file_of
from tasks.record.rollout import digest_of
from tasks.registry.checkpoints import find_checkpoint
from tasks.runtime.files import make_folder, write_file
from tasks.stage import stage


@stage("average checkpoints")
def average_checkpoints(search: SearchRun, history: History) -> Soup | None:
    """Return which checkpoints of a search make its champion, discarded ones included; None where it has one already.

    The worker leaves the scores of each trial in a file, so that an interrupted search goes on with the next trial.

    Raises:
        CheckpointDamagedError: a checkpoint is not as it was published.
        WorkerError: the worker failed.
    """
    if history.crowned is not None:
        return None
    means = {key: mean for decided in history.rounds for key, mean in mean_scores(decided.curves).items()}
    root = Path(search.ref.directory)
    requests = [
        ScoreRequest(
            key=key,
            directory=str(checkpoint_directory(round_directory(root, key.round), key.step)),
            sub_datasets=search.inputs.names,
        )
        for key in order_of(means)
    ]
    scoring = score_spec(search, requests, root / SOUP / SCORES)
    spec = SoupSpec(**dict(scoring), selection=search.config.evaluation.selection)
    make_folder(root / SOUP / SCORES)
    _take_known(search, requests[0], root / SOUP / SCORES)
    spec_path = root / SOUP / "scores_spec.json"
    write_file(spec_path, spec.model_dump_json(indent=1))
    run_scorer("tasks.workers.soup", spec, spec_path, lambda scores: None, "average of checkpoints")
    return Soup.model_validate_json((root / SOUP / SOUP_RESULT).read_text())


def _take_known(search: SearchRun, best: ScoreRequest, directory: Path) -> None:
    """Put the scores of the best checkpoint, which are known, where the worker looks for them."""
    scores = find_checkpoint(search.ref, best.key).scores
    if scores is not None:
        sha256 = digest_of([Path(best.directory)])
        known = scores.model_copy(update={"sha256": sha256, "cost": EvaluationCost()})
        write_file(directory / score_file_of(best.key), known.model_dump_json())


def scores_of_average(search: SearchRun, soup: Soup) -> CheckpointScores:
    """Return the validation scores of the average, under the key of its first member."""
    path = Path(search.ref.directory, SOUP, SCORES, score_file_of(soup.members[-1]))
    scores = CheckpointScores.model_validate_json(path.read_text())
    return scores.model_copy(update={"key": soup.members[0]})
