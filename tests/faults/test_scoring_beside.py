"""Scores that were made beside a roll-out outlive the training worker, for as long as their checkpoint is the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks.algorithm.state import CheckpointKey
from tasks.config.schema import SearchConfig
from tasks.contracts import (
    BaseModelRef,
    CheckpointScores,
    EvaluationCost,
    Inputs,
    Mixture,
    ScoreSplit,
    SearchRef,
    SearchRun,
    SubDatasetRef,
    SubDatasetScore,
)
from tasks.evaluation import scoring_beside
from tasks.record.paths import checkpoint_directory, round_directory, score_file_of
from tasks.record.rollout import MANIFEST
from tasks.runtime.files import hash_file
from tasks.workers.train import train
from tests.conftest import SKILLS, examples_of

STEPS = (0, 4, 9)


@dataclass(frozen=True)
class Round:
    """A roll-out of three checkpoints, and what scoring beside it takes."""

    search: SearchRun
    mixture: Mixture

    def checkpoint(self, step: int) -> Path:
        return checkpoint_directory(round_directory(self.search.ref.directory, 0), step)

    def scores(self, step: int) -> Path:
        return round_directory(self.search.ref.directory, 0) / "scores" / score_file_of(CheckpointKey(0, step))

    def score(self, killed_at: Callable[[], bool] | None = None) -> None:
        """Score what is published; the training fails when `killed_at` says so, where it is given."""
        with scoring_beside(self.search, self.mixture, 0):
            while killed_at is not None:
                if killed_at():
                    raise KilledError
                time.sleep(0.05)


class KilledError(Exception):
    """The training worker was killed."""


@pytest.fixture
def trained(
    make_rollout: Callable[..., Path],
    make_split: Callable[..., ScoreSplit],
    tiny_base: BaseModelRef,
    tiny_mixture: Mixture,
) -> Round:
    spec_path = make_rollout("one")
    train(spec_path)
    parts = []
    for draws in tiny_mixture.draws:
        split = make_split(draws.name, "exact_match", examples_of(draws.name, "validation"))
        parts.append(
            SubDatasetRef(
                name=draws.name, metric="exact_match", max_new_tokens=24, train=draws.train,
                validation=split.split, test_sha256=None, num_test_rows=0,
            )
        )  # fmt: skip
    config = SearchConfig.model_validate(
        {
            "name": "one",
            "model": {"source": "somewhere"},
            "mixture": {"sub_datasets": [{"name": name, "synthetic": {"skill": name}} for name in SKILLS]},
            "training": {"threads": 1, "device": "cpu"},
            "evaluation": {"beside_training": "yes"},
            "search": {"max_epochs": 4},
        }
    )
    search = SearchRef(
        search_id="test", name="one", directory=str(spec_path.parents[2]), tracking_uri="", outage_s=0,
        experiment_id="", run_id="",
    )  # fmt: skip
    inputs = Inputs(model=tiny_base, sub_datasets=tuple(parts))
    return Round(SearchRun(ref=search, config=config, inputs=inputs), tiny_mixture)


def test_scores_outlive_a_killed_training_worker(trained: Round) -> None:
    last, away = trained.checkpoint(9), trained.checkpoint(9).with_name("not-yet")
    last.rename(away)

    def two_are_scored() -> bool:
        return trained.scores(0).exists() and trained.scores(4).exists()

    with pytest.raises(KilledError):
        trained.score(two_are_scored)
    first = [trained.scores(step).stat() for step in (0, 4)]
    away.rename(last)
    trained.score()
    assert [trained.scores(step).stat().st_ino for step in (0, 4)] == [stat.st_ino for stat in first]
    assert [trained.scores(step).stat().st_mtime_ns for step in (0, 4)] == [s.st_mtime_ns for s in first]
    assert trained.scores(9).exists()


def test_scores_of_another_or_part_of_a_checkpoint_are_redone(trained: Round) -> None:
    whole, part = [
        tuple(
            SubDatasetScore(sub_dataset=name, accuracy=0.5, loss=7.0, num_examples=4, correct="0110") for name in names
        )
        for names in (SKILLS, SKILLS[:2])
    ]
    hashes = [hash_file(trained.checkpoint(step) / MANIFEST) for step in STEPS]
    trained.scores(0).parent.mkdir()
    for step, sha256, scores in zip(STEPS, (hashes[0], "of another", hashes[2]), (whole, whole, part), strict=True):
        held = CheckpointScores(key=CheckpointKey(0, step), sha256=sha256, scores=scores, cost=EvaluationCost())
        trained.scores(step).write_text(held.model_dump_json())
    trained.score()
    told = [CheckpointScores.model_validate_json(trained.scores(step).read_text()) for step in STEPS]
    assert [scores.sha256 for scores in told] == hashes
    assert [[score.sub_dataset for score in scores.scores] for scores in told] == [list(SKILLS)] * 3
    assert [scores.scores[0].loss == 7.0 for scores in told] == [True, False, False]
