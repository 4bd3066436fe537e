"""The greedy soup: which checkpoints are averaged, and where a report tells so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.algorithm.soup import Trial, members_of, order_of, tried
from tasks.algorithm.state import CheckpointKey
from tasks.contracts import EvaluationCost
from tasks.record.events import Soup
from tasks.record.view import SearchView, read_view
from tasks.report.findings import score_rows, verdict
from tasks.report.markdown import card_of, tell_search
from tasks.report.page import render_html, render_markdown
from tasks.reporting import frames_of
from tests.unit.made_search import MadeSearch

A, B, C, D = (CheckpointKey(*key) for key in ((0, 10), (0, 20), (1, 10), (1, 20)))


def test_the_best_is_tried_first_and_the_earliest_of_equal_ones() -> None:
    assert order_of({D: 0.5, C: 0.7, B: 0.5, A: 0.6}) == [C, A, B, D]


def test_a_checkpoint_stays_unless_the_score_falls() -> None:
    trials: tuple[Trial, ...] = ()
    for key, score in ((A, 0.70), (B, 0.69), (C, 0.70), (D, 0.699)):
        trials = tried(trials, key, score)
    assert members_of(trials) == (A, C)
    # What was left out does not count: the next one is held against the average that was kept.
    assert members_of(tried(trials, CheckpointKey(2, 5), 0.70)) == (A, C, CheckpointKey(2, 5))


def test_the_first_stays_whatever_its_score() -> None:
    assert members_of(tried((), A, -3.0)) == (A,)


@pytest.fixture
def averaged(tmp_path: Path) -> SearchView:
    """A search of one round whose champion is the average of its checkpoints at steps 20 and 10."""
    made = MadeSearch(tmp_path / "made", ["a", "b"], search={"max_epochs": 9, "champion": "soup"})
    made.decide({"a": [0.2, 0.5, 0.7], "b": [0.2, 0.5, 0.5]}, stop_reason="the budget is spent")
    trials = (Trial(B, 0.6, True), Trial(A, 0.75, True), Trial(CheckpointKey(0, 0), 0.7, False))
    cost = EvaluationCost(num_tokens=70, num_examples=7, flops=3e9, seconds=2.0)
    made.crown(test_accuracy=0.75, soup=Soup(trials=trials, cost=cost))
    return read_view(str(made.directory))


def test_every_report_names_the_averaged_checkpoints(averaged: SearchView) -> None:
    name = "the average of 2 checkpoints (round 0 step 20 and round 0 step 10)"
    assert f"The champion is {name} with a mean validation accuracy of 0.7500" in verdict(averaged)[1]
    assert {row.champion for row in score_rows(averaged)} == {0.75}
    for told in (tell_search(averaged), render_markdown(averaged)):
        assert name in told
        assert "| round 0 step 0 | 0.7000 | left out |" in told
    assert "left out" in render_html(averaged)
    assert list(frames_of(averaged)["soup"]["is_member"]) == [True, True, False]


def test_the_card_has_every_trial_with_its_score(averaged: SearchView) -> None:
    champion, soup = averaged.history.champion, averaged.history.soup
    assert champion.test is not None
    averaged.started.environment["git_commit"] = "abc"
    card = card_of(averaged, Path("champion"), champion.key, (champion.validation, champion.test), soup)
    assert card.lineage["msft.soup"] == "round 0 step 20, round 0 step 10"
    trials: list[dict[str, Any]] = json.loads(card.lineage["msft.soup_trials"])
    assert trials == card.front["msft"]["soup"]
    assert trials[1] == {"round": 0, "step": 10, "score": 0.75, "is_member": True}
    assert "| round 0 step 10 | 0.7500 | averaged |" in card.body


def test_scoring_averages_counts_as_evaluation(averaged: SearchView) -> None:
    assert averaged.totals["evaluation"].flops == 4e9
    assert [(line.round, line.kind) for line in averaged.history.ledger][-1] == (1, "evaluation")
