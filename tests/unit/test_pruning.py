"""The decision of a round and the mixture of the next, as pure functions of what was measured."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.algorithm.curves import Curve, MetricPoint
from tasks.algorithm.state import Champion, CheckpointKey
from tasks.algorithm.strategy import RoundReport
from tasks.config.loading import parse_config
from tasks.config.schema import SearchConfig
from tasks.contracts import (
    BaseModelRef,
    CheckpointRef,
    EvaluationCost,
    Inputs,
    Mixture,
    RolloutResult,
    RoundCurves,
    SplitRef,
    SubDatasetRef,
)
from tasks.mixing import mixture_of
from tasks.pruning import decide_pruning, with_known_rows
from tasks.record.events import RoundDecided, RowsRelabelled
from tasks.record.journal import History
from tests.unit.made_events import interval, started

NAMES = ("early", "late")
BASE, FIRST, SECOND = CheckpointKey(0, 0), CheckpointKey(0, 10), CheckpointKey(0, 20)
MODEL = BaseModelRef(
    directory="none", sha256="", trust_remote_code=False, attn_implementation=None,
    gradient_checkpointing=False, lora=None, seed=0, vocab_size=10, max_positions=None,
)  # fmt: skip
SPLIT = SplitRef(directory="none", num_rows=40, num_tokens=400, sha256="")
INPUTS = Inputs(
    model=MODEL,
    sub_datasets=tuple(
        SubDatasetRef(name=n, metric="loss", max_new_tokens=1, train=SPLIT, validation=SPLIT,
                      test_sha256=None, num_test_rows=0)
        for n in NAMES
    ),
)  # fmt: skip
EARLY, LATE = [0.1, 0.8, 0.5], [0.1, 0.4, 0.6]


def config_of(**search: Any) -> SearchConfig:
    """Return a search of two sub-datasets with 40 rows each, scored twice in a roll-out of two epochs."""
    parts = [{"name": name, "path": name} for name in NAMES]
    settings = {"max_epochs": 6, "compute_budget_epochs": 2, "evals_per_epoch": 1} | search
    return parse_config(
        {
            "name": "test",
            "model": {"source": "none"},
            "mixture": {"sub_datasets": parts},
            "training": {"batch_size": 8},
            "search": settings,
        },
        "test",
    )


def curve(name: str, scores: list[float], losses: list[float], keys: tuple[CheckpointKey, ...]) -> Curve:
    points = zip(keys, scores, losses, strict=True)
    return Curve(name, tuple(MetricPoint(key, score, loss, 100) for key, score, loss in points))


def decide(config: SearchConfig, history: History, early: list[float], late: list[float]) -> RoundDecided:
    """Return the decision on a roll-out of 160 rows whose losses rise wherever scores fall."""
    state = history.state
    start = state.checkpoint or BASE
    own = tuple(CheckpointKey(state.round, start.step + step) for step in (10, 20))
    curves = tuple(
        curve(name, scores, [1 - score for score in scores], (start, *own))
        for name, scores in zip(NAMES, (early, late), strict=True)
    )
    mixture = mixture_of(config, INPUTS, state, None)
    rollout = RolloutResult(
        round=state.round, start=start, checkpoints=(), intervals=tuple(interval(key, num_examples=80) for key in own)
    )
    return decide_pruning.fn(config, history, mixture, rollout, RoundCurves(curves=curves, cost=EvaluationCost()))


def test_the_start_of_a_round_has_the_rows_of_the_round_before() -> None:
    """MLflow's scores, which a rollback gives, are without rows."""
    before = Curve("a", (MetricPoint(BASE, 0.5, 1.0, 2, "01"), MetricPoint(FIRST, 1.0, 1.0, 2, "11")))
    now = Curve("a", (MetricPoint(FIRST, 1.0, 1.0, 2), MetricPoint(CheckpointKey(1, 20), 0.5, 1.0, 2, "10")))
    (filled,) = with_known_rows((now,), [RoundReport(0, ("a",), (before,), 10.0)])
    assert [point.correct for point in filled.points] == ["11", "10"]


@pytest.fixture
def history() -> History:
    return History.of([started(NAMES)])


def test_the_earliest_peak_is_excluded_and_rolled_back_to(history: History) -> None:
    decided = decide(config_of(), history, EARLY, LATE)
    assert (decided.decision.exclude, decided.decision.roll_back_to) == (("early",), FIRST)
    assert decided.scores_at_target == {"early": 0.8, "late": 0.4}
    assert decided.champion == Champion(FIRST, 0.6)
    assert (decided.active, decided.examples, decided.stop_reason) == (NAMES, 160, "")
    assert history.after(decided).state.active == ("late",)


def test_the_decision_is_a_function_of_its_arguments_alone(history: History) -> None:
    assert decide(config_of(), history, EARLY, LATE) == decide(config_of(), history, EARLY, LATE)
    assert history.state.round == 0


def test_the_champion_of_an_earlier_round_stays_on_a_tie(history: History) -> None:
    after = history.after(decide(config_of(), history, EARLY, LATE))
    decided = decide(config_of(), after, [0.8, 0.6, 0.5], [0.4, 0.5, 0.7])
    assert decided.champion == Champion(FIRST, 0.6)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"max_rounds": 1}, "search.max_rounds = 1 is reached"),
        ({"max_epochs": 2}, "2.00 of search.max_epochs = 2 epochs are spent"),
        ({"max_epochs": 2.6}, ""),  # one interval of one epoch still fits more than half
        ({}, ""),
    ],
)
def test_a_search_ends_by_its_rounds_or_its_budget(history: History, settings: dict[str, Any], reason: str) -> None:
    assert decide(config_of(**settings), history, LATE, LATE).stop_reason == reason


def test_a_search_ends_when_nothing_is_active(history: History) -> None:
    decided = decide(config_of(exclude_per_round=2), history, EARLY, EARLY)
    assert decided.stop_reason == "no sub-dataset is active any more"


def test_excluded_sub_datasets_are_rehearsed_while_advancing(history: History) -> None:
    """The round after the exclusion excludes nothing, and its decision keeps the weight of the excluded one."""
    config = config_of(options={"rehearsal": 0.25})
    after = history.after(decide(config, history, EARLY, LATE))
    assert after.state.weights == {"early": 0.25}
    decided = decide(config, after, [0.8, 0.8, 0.8], [0.4, 0.5, 0.7])
    assert decided.decision.exclude == ()
    assert after.after(decided).state.weights == {"early": 0.25}
    mixture = mixture_of(config, INPUTS, after.state, None)
    assert [(d.name, d.rows_per_epoch, d.is_rehearsed) for d in mixture.draws] == [
        ("early", 10, True),
        ("late", 40, False),
    ]


def relabelled(history: History, split: SplitRef | None) -> RowsRelabelled:
    """Return the event of relabelled rows for what the state of the history asks for."""
    ((name, checkpoint),) = history.unlabelled.items()
    return RowsRelabelled(
        round=history.state.round,
        sub_dataset=name,
        checkpoint=checkpoint,
        split=split,
        num_changed=3,
        num_left_out=2,
        cost=EvaluationCost(num_tokens=7, flops=5.0),
    )


def test_relabelled_rows_are_drawn_and_their_cost_is_counted(history: History) -> None:
    config = config_of(options={"rehearse": "relabelled"})
    after = history.after(decide(config, history, EARLY, LATE))
    assert (after.state.weights, after.unlabelled) == ({"early": 0.5}, {"early": FIRST})
    own = SplitRef(directory="own", num_rows=38, num_tokens=380, sha256="")
    after = after.after(relabelled(after, own))
    assert (after.unlabelled, after.relabelled["early"].split) == ({}, own)
    mixture = mixture_of(config, INPUTS, after.state, None, {"early": own})
    assert [(d.train.directory, d.rows_per_epoch) for d in mixture.draws] == [("own", 20), ("none", 40)]
    decided = decide(config, after, [0.8, 0.8, 0.8], [0.4, 0.5, 0.7])
    assert (decided.evaluation.num_tokens, decided.evaluation.flops) == (7, 5.0)
    assert after.after(decided).relabelled["early"].split == own
    later = decide(config, after.after(decided), [0.8, 0.8, 0.8], [0.4, 0.5, 0.7])
    assert later.evaluation.flops == 0


def test_a_sub_dataset_of_which_no_row_is_left_leaves_the_mixture(history: History) -> None:
    config = config_of(options={"rehearse": "relabelled"})
    after = history.after(decide(config, history, EARLY, LATE))
    mixture = mixture_of(config, INPUTS, after.state, None, {"early": None})
    assert [draw.name for draw in mixture.draws] == ["late"]


@pytest.mark.parametrize(("end_loss", "excluded"), [(1.1, ("early",)), (1.0999, ())])
def test_the_loss_guard_excludes_from_its_share_on(
    history: History, end_loss: float, excluded: tuple[str, ...]
) -> None:
    """A guard of 0.1 keeps a sub-dataset whose loss ends below 1.1 times its least."""
    config = config_of(options={"loss_guard": 0.1})
    keys = (BASE, FIRST, SECOND)
    curves = (curve("early", EARLY, [2.0, 1.0, end_loss], keys), curve("late", LATE, [2.0, 1.0, 0.5], keys))
    rollout = RolloutResult(round=0, start=BASE, checkpoints=(), intervals=(interval(SECOND),))
    measured = RoundCurves(curves=curves, cost=EvaluationCost())
    mixture = mixture_of(config, INPUTS, history.state, None)
    assert decide_pruning.fn(config, history, mixture, rollout, measured).decision.exclude == excluded


def test_a_roll_out_is_cut_to_the_budget_that_is_left(history: History) -> None:
    """Of three epochs, two are spent on the first roll-out."""
    config = config_of(max_epochs=3)
    after = history.after(decide(config, history, LATE, LATE))
    mixture = mixture_of(config, INPUTS, after.state, None)
    assert (mixture.epochs, mixture.num_rows) == (1.0, 80)


def test_each_sub_dataset_goes_on_from_its_own_data_position(history: History) -> None:
    start = CheckpointRef(
        key=FIRST, directory="", sha256="", num_bytes=0, cursors={"early": 17, "late": 23}, published_at_ms=0
    )
    mixture: Mixture = mixture_of(config_of(), INPUTS, history.state, start)
    assert [draw.cursor for draw in mixture.draws] == [17, 23]
    assert [draw.cursor for draw in mixture_of(config_of(), INPUTS, history.state, None).draws] == [0, 0]
