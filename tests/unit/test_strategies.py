from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest

from tasks.algorithm.curves import Curve, ExclusionRule, MetricPoint, choose_champion, mean_scores
from tasks.algorithm.msft import Msft
from tasks.algorithm.state import CheckpointKey
from tasks.algorithm.strategy import Decision, RoundReport, along_the_path

START = CheckpointKey(1, 100)  # a checkpoint of the round before


def _at(interval: int) -> CheckpointKey:
    """Return the checkpoint after `interval` intervals of 5 steps in round 2."""
    return CheckpointKey(2, 100 + 5 * interval) if interval else START


def _report(active: str, **scores: tuple[float, ...]) -> RoundReport:
    """Return a report on `scores`, in the mixture's order; `active` has one letter per active sub-dataset."""
    curves = tuple(
        Curve(name, tuple(MetricPoint(_at(i), score, 1.0, 200) for i, score in enumerate(points)))
        for name, points in scores.items()
    )
    return RoundReport(round=2, active=tuple(active), curves=curves, steps_per_epoch=20.0)


def _decide(
    report: RoundReport,
    *,
    literal: bool = False,
    exclude_per_round: int = 1,
    optimizer: Literal["restore", "reset"] = "restore",
) -> Decision:
    return Msft(ExclusionRule(literal, 0.05), exclude_per_round, optimizer).observe(report)


def test_rolls_back_to_the_peak_of_the_earliest_overfitting() -> None:
    decision = _decide(_report("abc", a=(0.1, 0.2, 0.9, 0.3), b=(0.1, 0.6, 0.5, 0.4), c=(0.1, 0.2, 0.3, 0.4)))
    assert decision.exclude == ("b",)
    assert decision.roll_back_to == _at(1)


def test_a_peak_at_the_start_discards_the_whole_roll_out() -> None:
    decision = _decide(_report("ab", a=(0.7, 0.5, 0.4), b=(0.1, 0.2, 0.3)))
    assert decision.exclude == ("a",)
    assert decision.roll_back_to == START
    assert "peaked earliest, at the round's start (step 100)" in decision.reason


def test_random_control_keeps_number_and_rollback_but_not_names() -> None:
    """The draw depends on the random seed and on the report."""
    report = _report("abcd", a=(0.1, 0.9, 0.3), b=(0.1, 0.2, 0.3), c=(0.1, 0.2, 0.4), d=(0.1, 0.2, 0.5))
    rule = ExclusionRule(literal=False, min_delta=0.05)
    decisions = [Msft(rule, 1, "restore", random_seed=seed).observe(report) for seed in range(20)]
    assert {decision.exclude for decision in decisions} == {("a",), ("b",), ("c",), ("d",)}
    assert {decision.roll_back_to for decision in decisions} == {_at(1)}
    assert decisions[0] == Msft(rule, 1, "restore", random_seed=0).observe(report)
    others = [_with_loss(report, 1.0 + number / 100) for number in range(20)]
    assert len({Msft(rule, 1, "restore", random_seed=0).observe(other).exclude for other in others}) > 1
    calm = _report("ab", a=(0.1, 0.2, 0.3), b=(0.1, 0.2, 0.3))
    assert Msft(rule, 1, "restore", random_seed=0).observe(calm).exclude == ()


def _with_loss(report: RoundReport, loss: float) -> RoundReport:
    curves = tuple(
        replace(curve, points=tuple(replace(point, loss=loss) for point in curve.points)) for curve in report.curves
    )
    return replace(report, curves=curves)


def test_without_overfitting_it_advances_to_the_last_checkpoint() -> None:
    decision = _decide(_report("ab", a=(0.1, 0.2, 0.3), b=(0.1, 0.3, 0.28)))
    assert decision.exclude == ()
    assert decision.roll_back_to == _at(2)
    assert decision.reason == (
        "no active sub-dataset lost more than 0.05 from its peak (largest: b, 0.020): "
        "advance from the end of the roll-out"
    )


def test_only_the_literal_rule_excludes_a_flat_curve() -> None:
    report = _report("ab", a=(0.2, 0.2, 0.2), b=(0.1, 0.3, 0.5))
    literal, guarded = _decide(report, literal=True), _decide(report)
    assert (literal.exclude, literal.roll_back_to) == (("a",), START)
    assert (guarded.exclude, guarded.roll_back_to) == ((), _at(2))


@pytest.mark.parametrize(
    ("a", "b", "gone"),
    [
        ((0.1, 0.6, 0.5), (0.1, 0.6, 0.4), "b"),  # the same peak: the larger drop
        ((0.1, 0.6, 0.4), (0.1, 0.6, 0.4), "a"),  # the same drop: the first in the mixture
        ((0.1, 0.9, 0.4), (0.6, 0.6, 0.4), "b"),  # the earliest of equal scores is the peak
    ],
)
def test_ties_go_to_the_larger_drop_then_the_mixture_order(
    a: tuple[float, ...], b: tuple[float, ...], gone: str
) -> None:
    assert _decide(_report("ab", a=a, b=b)).exclude == (gone,)


def test_a_drop_of_exactly_min_delta_does_not_exclude() -> None:
    assert _decide(_report("a", a=(0.1, 0.80, 0.75))).exclude == ()
    assert _decide(_report("a", a=(0.1, 0.80, 0.745))).exclude == ("a",)


@pytest.mark.parametrize(
    ("losses", "gone"),
    [
        ((0.9, 0.4, 0.3), ()),  # the loss still falls
        ((0.9, 0.40, 0.419), ()),  # 4.75 % above its minimum
        ((0.9, 0.40, 0.421), ("a",)),  # 5.25 % above it
        ((0.9, 0.40, 0.6), ("a",)),
    ],
)
def test_loss_guard_keeps_those_whose_loss_has_not_risen(losses: tuple[float, ...], gone: tuple[str, ...]) -> None:
    points = zip((0.1, 0.8, 0.6), losses, strict=True)
    curve = Curve("a", tuple(MetricPoint(_at(i), score, loss, 200) for i, (score, loss) in enumerate(points)))
    report = RoundReport(round=2, active=("a",), curves=(curve,), steps_per_epoch=20.0)
    unguarded = Msft(ExclusionRule(literal=False, min_delta=0.05), 1, "restore")
    decision = replace(unguarded, loss_guard=0.05).observe(report)
    assert unguarded.observe(report).exclude == ("a",)
    assert decision.exclude == gone
    if not gone:
        assert decision.verdicts[0].word == "drop, loss not risen"
        assert decision.reason.startswith("scores fell (a 0.200), but no loss has risen with them: advance")


def _round(index: int, start: CheckpointKey, scores: dict[str, tuple[float, ...]]) -> RoundReport:
    """Return a round of 10 steps an epoch, evaluated every 5; the first scores are those at its start."""
    keys = [start, *(CheckpointKey(index, start.step + 5 * i) for i in range(1, len(scores["a"])))]
    curves = tuple(
        Curve(name, tuple(MetricPoint(key, point, 1.0 - point, 200) for key, point in zip(keys, points, strict=True)))
        for name, points in scores.items()
    )
    return RoundReport(index, tuple(scores), curves, steps_per_epoch=10.0)


def _slow_loser() -> RoundReport:
    """Return three rounds in which `a` loses at most 0.03 each; the first was rolled back to its second point."""
    base = CheckpointKey(0, 0)
    first = _round(0, base, {"a": (0.1, 0.87, 0.99), "b": (0.1, 0.2, 0.3)})
    second = _round(1, CheckpointKey(0, 5), {"a": (0.87, 0.86, 0.84), "b": (0.2, 0.3, 0.4)})
    third = _round(2, CheckpointKey(1, 15), {"a": (0.84, 0.845, 0.81), "b": (0.4, 0.5, 0.6)})
    return replace(third, previous=(first, second))


def test_only_the_path_window_excludes_a_slow_decline() -> None:
    rule = ExclusionRule(literal=False, min_delta=0.05)
    per_round = Msft(rule, 1, "restore", loss_guard=0.05).observe(_slow_loser())
    on_path = Msft(rule, 1, "restore", loss_guard=0.05, peak_window="path").observe(_slow_loser())
    assert per_round.exclude == ()
    assert (on_path.exclude, on_path.roll_back_to) == (("a",), CheckpointKey(2, 20))
    assert on_path.reason == (
        "a peaked earliest, 1.00 epochs before the roll-out (step 5), at 0.870 and fell to 0.810: "
        "exclude, roll back to its best in this one, round 2 step 20"
    )


def test_path_window_ignores_discarded_points() -> None:
    """The 0.99 at round 0 step 10 was discarded; round 1 continues from step 5."""
    a, b = along_the_path(_slow_loser())
    assert [(str(point.checkpoint), point.score) for point in a.points] == [
        ("round 0 step 0", 0.1),
        ("round 0 step 5", 0.87),
        ("round 1 step 10", 0.86),
        ("round 1 step 15", 0.84),
        ("round 2 step 20", 0.845),
        ("round 2 step 25", 0.81),
    ]
    assert [point.score for point in b.points] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


def test_path_window_ignores_a_fully_discarded_roll_out() -> None:
    base = CheckpointKey(0, 0)
    first = _round(0, base, {"a": (0.1, 0.9, 0.95), "b": (0.1, 0.2, 0.3)})
    second = _round(1, CheckpointKey(0, 5), {"a": (0.9, 0.99, 0.7), "b": (0.2, 0.1, 0.1)})
    third = _round(2, CheckpointKey(0, 5), {"a": (0.9, 0.91, 0.92), "b": (0.2, 0.3, 0.4)})
    a, _ = along_the_path(replace(third, previous=(first, second)))
    assert [point.score for point in a.points] == [0.1, 0.9, 0.91, 0.92]


def test_the_last_active_sub_dataset_can_be_excluded() -> None:
    decision = _decide(_report("b", a=(0.9, 0.5, 0.1), b=(0.3, 0.5, 0.1)))
    assert (decision.exclude, decision.roll_back_to) == (("b",), _at(1))


def test_an_excluded_sub_dataset_is_never_a_candidate() -> None:
    decision = _decide(_report("b", a=(0.9, 0.5, 0.1), b=(0.1, 0.2, 0.3)))
    assert (decision.exclude, decision.roll_back_to) == ((), _at(2))
    assert [verdict.word for verdict in decision.verdicts] == ["excluded before", "still learning"]


def test_two_exclusions_roll_back_to_the_earlier_peak() -> None:
    scores = {"a": (0.1, 0.2, 0.9, 0.3), "b": (0.1, 0.6, 0.5, 0.4), "c": (0.7, 0.7, 0.7, 0.7)}
    decision = _decide(_report("abc", **scores), exclude_per_round=2)
    assert decision.exclude == ("b", "a")
    assert decision.roll_back_to == _at(1)
    assert "with it goes a" in decision.reason


def test_exclude_per_round_excludes_no_more_than_overfit() -> None:
    decision = _decide(_report("ab", a=(0.1, 0.2, 0.3), b=(0.1, 0.6, 0.4)), exclude_per_round=2)
    assert decision.exclude == ("b",)


@pytest.mark.parametrize("optimizer", ["restore", "reset"])
def test_a_rollback_passes_on_the_optimizer_setting(optimizer: Literal["restore", "reset"]) -> None:
    decision = _decide(_report("a", a=(0.1, 0.6, 0.4)), optimizer=optimizer)
    assert decision.optimizer == optimizer


def test_an_advance_restores_the_optimizer_state() -> None:
    assert _decide(_report("a", a=(0.1, 0.2, 0.3)), optimizer="reset").optimizer == "restore"


def test_the_reason_names_sub_dataset_scores_and_rollback_target() -> None:
    decision = _decide(_report("ab", a=(0.1, 0.2, 0.812, 0.7), b=(0.1, 0.2, 0.3, 0.4)))
    assert decision.reason == (
        "a peaked earliest, 0.50 epochs into the roll-out (step 110), at 0.812 and fell to 0.700: "
        "exclude, roll back to round 2 step 110"
    )


def test_the_reason_names_ties() -> None:
    reason = _decide(_report("abc", a=(0.1, 0.6, 0.4), b=(0.1, 0.9, 0.1), c=(0.1, 0.2, 0.3))).reason
    assert reason.startswith("b peaked earliest")
    assert "; tied with a, it lost most or stands first in the mixture:" in reason


def test_verdicts_cover_all_sub_datasets_in_mixture_order() -> None:
    scores = {"c": (0.1, 0.6, 0.4), "a": (0.1, 0.2, 0.9), "b": (0.1, 0.5, 0.2)}
    verdicts = _decide(_report("cb", **scores)).verdicts
    assert [(v.sub_dataset, v.word) for v in verdicts] == [
        ("c", "overfits, later peak"),
        ("a", "excluded before"),
        ("b", "excluded now"),
    ]


def test_a_discarded_checkpoint_can_be_champion() -> None:
    report = _report("ab", a=(0.5, 0.6, 0.5, 0.4), b=(0.1, 0.2, 0.9, 0.9))
    assert _decide(report).roll_back_to == _at(1)
    champion = choose_champion(None, mean_scores(report.curves))
    assert (champion.checkpoint, champion.score) == (_at(2), 0.7)
