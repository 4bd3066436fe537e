"""`msft score` gives an exported champion the scores that the search gave it, row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.commands.score import mean_of, score_model, show_scores, wilson_interval
from tasks.record.events import champion_of
from tasks.record.journal import read_events
from tasks.record.ownership import directory_of
from tasks.record.paths import CHAMPION


def test_an_exported_champion_scores_as_in_its_search(
    searched: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config, _ = searched
    directory = Path(directory_of(config))
    crowned = champion_of(read_events(str(directory)))
    assert crowned is not None
    assert crowned.champion.test is not None
    monkeypatch.chdir(directory)
    scores = score_model(config, CHAMPION, "test", with_rows=True)
    assert "opens the test splits" in caplog.text
    assert scores.model == CHAMPION
    for held, part in zip(crowned.champion.test.scores, scores.sub_datasets, strict=True):
        rows = [row for row in scores.rows if row.sub_dataset == part.name]
        assert (part.name, part.score, part.num_rows) == (held.sub_dataset, held.accuracy, len(rows))
        assert "".join(str(int(row.is_correct)) for row in rows) == held.correct
        assert part.loss == pytest.approx(held.loss, rel=1e-6)
        assert part.interval is not None
        assert part.interval[0] <= held.accuracy <= part.interval[1]
        assert all(row.is_correct == (row.answer.strip() == row.expected.strip()) for row in rows)
    show_scores(scores)
    for text in ("95 % interval", f"{scores.rows[-1].answer!r}; expected {scores.rows[-1].expected!r}"):
        assert text in caplog.text


def test_the_base_model_is_scored_on_validation_by_default(searched: Any, caplog: pytest.LogCaptureFixture) -> None:
    config, _ = searched
    scores = score_model(config, None, "validation", with_rows=False)
    names = [sub_dataset.name for sub_dataset in config.mixture.sub_datasets]
    assert ([part.name for part in scores.sub_datasets], scores.rows) == (names, ())
    assert scores.mean == mean_of(scores.sub_datasets)
    assert "opens the test splits" not in caplog.text


@pytest.mark.parametrize(
    ("num_correct", "num_rows", "low", "high"),
    [(7, 10, 0.39677, 0.89221), (0, 200, 0.0, 0.01885), (200, 200, 0.98115, 1.0)],
)
def test_the_interval_of_a_score_is_wilsons(num_correct: int, num_rows: int, low: float, high: float) -> None:
    assert wilson_interval(num_correct, num_rows) == pytest.approx((low, high), abs=1e-5)
