from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tasks.algorithm.state import Champion, CheckpointKey, Exclusion, SearchState
from tasks.record.events import EnvironmentChanged, Event, RoundDecided
from tasks.record.journal import History
from tests.unit.made_events import decided, started


def fold(events: Sequence[Event]) -> SearchState:
    return History.of(events).state


NAMES = ("a", "b", "c", "d")
STARTED = started(NAMES)


def _decided(round_index: int, target: tuple[int, int], **changes: Any) -> RoundDecided:
    return decided(round_index, target, NAMES, **changes)


def test_a_new_search_has_all_active_and_starts_from_the_base() -> None:
    state = fold([STARTED])
    assert state == SearchState(active=("a", "b", "c", "d"))
    assert (state.checkpoint, state.champion, state.is_finished) == (None, None, False)


def test_a_decision_excludes_and_sets_the_next_round_s_start() -> None:
    weights = {"a": 1.0, "b": 2.0, "d": 3.0}
    event = _decided(0, (0, 20), exclude=("c",), optimizer="reset", weights=weights)
    assert fold([STARTED, event]) == SearchState(
        round=1,
        active=("a", "b", "d"),
        excluded=(Exclusion("c", 0, CheckpointKey(0, 20), pytest.approx(0.3)),),
        checkpoint=CheckpointKey(0, 20),
        optimizer="reset",
        weights=weights,
        spent_examples=100,
        champion=Champion(CheckpointKey(0, 10), 0.5),
    )


def test_exclusions_keep_their_order_and_spent_examples_add_up() -> None:
    state = fold(
        [
            STARTED,
            _decided(0, (0, 20), exclude=("c",), examples=100),
            _decided(1, (1, 40), examples=70),
            _decided(2, (1, 40), exclude=("d", "a"), examples=5),
        ]
    )
    assert [(e.sub_dataset, e.round) for e in state.excluded] == [("c", 0), ("d", 2), ("a", 2)]
    assert state.active == ("b",)
    assert (state.round, state.spent_examples) == (3, 175)


def test_the_last_decision_sets_the_champion() -> None:
    champion = Champion(CheckpointKey(1, 30), 0.75)
    state = fold([STARTED, _decided(0, (0, 20)), _decided(1, (0, 20), champion=champion)])
    assert state.champion == champion


def test_a_readmitted_sub_dataset_returns_to_its_place() -> None:
    state = fold(
        [
            STARTED,
            _decided(0, (0, 20), exclude=("b",)),
            _decided(1, (1, 40), exclude=("d",)),
            _decided(2, (2, 60), include=("b",)),
        ]
    )
    assert state.active == ("a", "b", "c")
    assert [e.sub_dataset for e in state.excluded] == ["d"]


def test_a_readmitted_sub_dataset_can_be_excluded_again() -> None:
    state = fold(
        [
            STARTED,
            _decided(0, (0, 20), exclude=("b",)),
            _decided(1, (1, 40), include=("b",), exclude=("a",)),
            _decided(2, (2, 60), exclude=("b",)),
        ]
    )
    assert state.active == ("c", "d")
    assert [(e.sub_dataset, e.round) for e in state.excluded] == [("a", 1), ("b", 2)]


def test_a_stop_reason_ends_the_search() -> None:
    state = fold([STARTED, _decided(0, (0, 20), stop_reason="search.max_rounds = 1 is reached")])
    assert state.is_finished


def test_other_events_do_not_change_the_state() -> None:
    note, decision = EnvironmentChanged(differences=(), numerical_environment={}), _decided(0, (0, 20))
    assert fold([STARTED, note, decision, note]) == fold([STARTED, decision])


@pytest.mark.parametrize(
    "events",
    [
        [_decided(0, (0, 20))],  # before the search was started
        [STARTED, _decided(1, (0, 20))],  # a round is missing
        [STARTED, _decided(0, (0, 20)), _decided(0, (0, 20))],  # a round twice
    ],
)
def test_a_decision_out_of_order_is_an_error(events: list[Event]) -> None:
    with pytest.raises(ValueError, match=r"decision of round \d out of order|no event says that a search has started"):
        fold(events)


def test_checkpoints_are_ordered_by_publication() -> None:
    keys = [CheckpointKey(1, 5), CheckpointKey(0, 30), CheckpointKey(1, 40), CheckpointKey(0, 0)]
    assert sorted(keys) == [CheckpointKey(0, 0), CheckpointKey(0, 30), CheckpointKey(1, 5), CheckpointKey(1, 40)]
