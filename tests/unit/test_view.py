"""The view of a search: scores in one unit, positions, rows of the champion."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.record.status import status_of
from tasks.record.view import Score, read_view
from tasks.report.tables import champion_table
from tests.unit.made_search import MadeSearch


def test_a_loss_is_shown_positive_and_an_accuracy_as_it_is() -> None:
    assert Score(-1.25, "loss").shown == 1.25
    assert Score(0.625, "accuracy").shown == 0.625


@pytest.fixture
def by_loss(tmp_path: Path) -> MadeSearch:
    """Two rounds of two intervals each; `one` leaves in the first, whose second interval is discarded."""
    search = MadeSearch(tmp_path / "made-0badcafe", ["one", "two"], evaluation={"selection": "loss"})
    search.decide({"one": [-2.0, -1.0, -1.5], "two": [-3.0, -2.0, -1.0]}, target=1, exclude=("one",))
    return search.decide({"one": [-1.0, -1.2, -1.4], "two": [-2.0, -1.5, -1.25]}, stop_reason="enough").crown()


def test_a_search_by_loss_shows_losses_everywhere(by_loss: MadeSearch) -> None:
    view = read_view(str(by_loss.directory))
    assert view.selected_on == "validation loss"
    assert view.champion is not None
    assert view.score(view.champion.score).shown == 1.25
    assert status_of(str(by_loss.directory)).champion_score == 1.25
    assert view.crowned is not None
    first, second, _ = champion_table(view, view.crowned.validation, view.crowned.test).rows
    assert first[:3] == ("one", "1.250", "1.000")
    assert second[2:5] == ("never", "1.250", "0.500")


def test_positions_count_all_training_in_full_epochs(by_loss: MadeSearch) -> None:
    view = read_view(str(by_loss.directory))
    assert [(told.begin, told.accepted_to, told.end) for told in view.rounds] == [(0, 0.5, 1.0), (1.0, 2.0, 2.0)]
    assert (view.spent, view.unit) == (2.0, "full-mixture epochs")
    assert status_of(str(by_loss.directory)).spent_epochs == 2.0
