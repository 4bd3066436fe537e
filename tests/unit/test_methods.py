"""The methods other than mSFT, on hand-written curves; test_strategies.py covers mSFT."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tasks.algorithm.baselines import ContinualSft, Dynamix, Ies, Sft, SoftSroSft, SroSft
from tasks.algorithm.curves import Curve, ExclusionRule, MetricPoint
from tasks.algorithm.forward_search import Forward
from tasks.algorithm.methods import METHODS, strategy_of, takes
from tasks.algorithm.msft import Msft
from tasks.algorithm.state import CheckpointKey
from tasks.algorithm.strategy import RoundReport
from tasks.config.loading import parse_config
from tasks.errors import ConfigError

BASE = CheckpointKey(0, 0)
Points = list[tuple[float, float]]  # (score, loss)


def _report(number: int, active: str, previous: tuple[RoundReport, ...] = (), **curves: Any) -> RoundReport:
    """Return a round with intervals of 10 steps, 4 per epoch, that continues from the end of the previous one.

    A curve is a list of scores (its losses are all 1) or of pairs of score and loss.
    """
    start = max((p.checkpoint for p in previous[-1].curves[0].points), default=BASE) if previous else BASE
    return RoundReport(
        round=number,
        active=tuple(active),
        curves=tuple(
            Curve(
                name,
                tuple(
                    MetricPoint(
                        CheckpointKey(number, start.step + 10 * i) if i else start,
                        *(value if isinstance(value, tuple) else (value, 1.0)),
                        200,
                    )
                    for i, value in enumerate(values)
                ),
            )
            for name, values in curves.items()
        ),
        steps_per_epoch=40.0,
        previous=previous,
    )


def test_sft_spends_the_whole_budget_on_one_roll_out_of_all() -> None:
    opening = Sft(6).open(("a", "b"))
    assert (opening.active, opening.rollout_epochs) == (None, 6)
    decision = Sft(6).observe(_report(0, "ab", a=[0.1, 0.5, 0.2], b=[0.1, 0.2, 0.3]))
    assert (decision.exclude, decision.roll_back_to, bool(decision.stop)) == ((), CheckpointKey(0, 20), True)


def test_continual_sft_continues_from_each_peak() -> None:
    method = ContinualSft(3)
    assert method.open(("a", "b", "c")).active == ("a",)
    first = method.observe(_report(0, "a", a=[0.1, 0.5, 0.2], b=[0.9, 0.2, 0.3], c=[0.1, 0.2, 0.3]))
    assert (first.exclude, first.include) == (("a",), ("b",))
    assert (first.roll_back_to, first.rollout_epochs, first.stop) == (CheckpointKey(0, 10), 3, "")
    last = method.observe(_report(2, "c", a=[0.1, 0.5], b=[0.9, 0.2], c=[0.1, 0.2]))
    assert (last.include, bool(last.stop)) == ((), True)


PROBED = {"a": [0.1, 0.5, 0.4, 0.3, 0.2], "b": [0.1, 0.2, 0.3, 0.4, 0.5], "c": [0.5, 0.2, 0.2, 0.2, 0.2]}


def test_sro_restarts_and_excludes_each_at_its_optimum() -> None:
    method = SroSft(6)
    assert method.open(("a", "b", "c")).rollout_epochs == 3
    probe = _report(0, "abc", **PROBED)
    first = method.observe(probe)
    assert (first.roll_back_to, first.exclude, first.rollout_epochs) == (BASE, ("c",), 0.25)
    second = _report(1, "ab", (probe,), **{name: values[:2] for name, values in PROBED.items()})
    # Round 1 starts from the base, not from the end of round 0.
    second = RoundReport(
        1,
        ("a", "b"),
        tuple(
            Curve(
                c.sub_dataset,
                (MetricPoint(BASE, c.points[0].score, 1.0, 200), MetricPoint(CheckpointKey(1, 10), 0.5, 1.0, 200)),
            )
            for c in second.curves
        ),
        40.0,
        (probe,),
    )
    then = method.observe(second)
    assert (then.exclude, then.roll_back_to, then.rollout_epochs) == (("a",), CheckpointKey(1, 10), 0.75)
    third = _report(2, "b", (probe, second), a=[0.5] * 4, b=[0.5] * 4, c=[0.5] * 4)
    assert method.observe(third).stop


@pytest.mark.parametrize("method", [name for name, entry in METHODS.items() if not entry.goes_back])
def test_what_never_goes_back_starts_at_the_end_or_the_base(method: str) -> None:
    shared = {"max_epochs": 6, "min_delta": 0.05, "exclude_per_round": 1, "optimizer_on_rollback": "restore"}
    strategy = strategy_of(method, shared, ExclusionRule(literal=False, min_delta=0.05), {})
    falling = {name: [(score, 1.0 + n) for n, score in enumerate(scores)] for name, scores in PROBED.items()}
    first = _report(0, "abc", **falling)
    for report in (first, _report(1, "abc", (first,), **falling)):
        assert strategy.observe(report).roll_back_to in (BASE, report.last)


def test_an_optimum_counts_whole_evaluation_intervals() -> None:
    """The evaluations of an epoch of 150 steps are at 38, 75, 112 and 150; the first is a quarter of an epoch."""
    keys = [BASE, *(CheckpointKey(0, step) for step in (38, 75, 112, 150))]
    scores = {"a": [0.1, 0.5, 0.4, 0.3, 0.2], "b": [0.1, 0.2, 0.3, 0.4, 0.5]}
    probe = RoundReport(
        0,
        ("a", "b"),
        tuple(
            Curve(name, tuple(MetricPoint(key, score, 1.0, 200) for key, score in zip(keys, own, strict=True)))
            for name, own in scores.items()
        ),
        150.0,
    )
    assert SroSft(2).observe(probe).rollout_epochs == 0.25
    after = (MetricPoint(BASE, 0.1, 1.0, 200), MetricPoint(CheckpointKey(1, 38), 0.5, 1.0, 200))
    # 38 steps of 600 rows' quarter: 37.5 steps, rounded up.
    second = RoundReport(1, ("a", "b"), tuple(Curve(n, after) for n in scores), 38 / 0.25, (probe,))
    assert SroSft(2).observe(second).exclude == ("a",)
    assert SoftSroSft(2).observe(probe).weights == {"a": 0.25, "b": 1.0}


def test_soft_sro_trains_each_for_its_optimum_in_one_roll_out() -> None:
    method = SoftSroSft(6)
    decision = method.observe(_report(0, "abc", **PROBED))
    assert (decision.roll_back_to, decision.exclude, decision.rollout_epochs) == (BASE, ("c",), 1.0)
    assert decision.weights == {"a": 0.25, "b": 1.0}
    assert method.observe(_report(1, "ab", a=[0.1], b=[0.1], c=[0.1])).stop


def test_msft_with_rehearsal_keeps_the_excluded_at_a_small_share() -> None:
    report = _report(1, "ab", a=[0.1, 0.5, 0.2], b=[0.1, 0.2, 0.3], c=[0.1, 0.2, 0.3])
    decision = Msft(ExclusionRule(False, 0.05), 1, "restore", rehearsal=0.1).observe(report)
    assert decision.weights == {"a": 0.1, "c": 0.1}
    assert Msft(ExclusionRule(False, 0.05), 1, "restore").observe(report).weights is None


def test_msft_relabels_by_the_best_checkpoint_of_the_roll_out() -> None:
    """Of each that leaves, whatever the search rolls back to."""
    report = _report(1, "ab", a=[0.1, 0.5, 0.2, 0.2], b=[0.1, 0.2, 0.6, 0.3], c=[0.1, 0.2, 0.3, 0.4])
    rule = ExclusionRule(False, 0.05)
    decision = Msft(rule, 2, "restore", rehearsal=0.5, rehearse="relabelled").observe(report)
    assert decision.relabel == {"a": CheckpointKey(1, 10), "b": CheckpointKey(1, 20)}
    assert Msft(rule, 2, "restore", rehearsal=0.5).observe(report).relabel is None


def test_forward_relabels_by_a_peak_of_an_earlier_round() -> None:
    """So the peaks of all that stay are kept until they leave."""
    method = Forward(0.05, rehearsal=0.5, rehearse="relabelled")
    first = _report(0, "ab", a=[(0.1, 2.0), (0.6, 1.0), (0.58, 1.0)], b=[0.1, 0.2, 0.3])
    before = method.observe(first)
    assert (before.relabel, before.keep) == (None, (CheckpointKey(0, 10), CheckpointKey(0, 20)))
    second = _report(1, "ab", (first,), a=[(0.58, 1.0), (0.5, 1.2), (0.5, 1.3)], b=[0.3, 0.4, 0.5])
    decision = method.observe(second)
    assert decision.relabel == {"a": CheckpointKey(0, 10)}
    assert decision.keep == (CheckpointKey(1, 40),)
    assert Forward(0.05).observe(second).keep == ()


# Below the peak by 0.05 twice, and a loss 10 % above its minimum.
FALLEN: Points = [(0.1, 2.0), (0.6, 1.0), (0.55, 1.05), (0.54, 1.1)]


@pytest.mark.parametrize(
    ("points", "leaves"),
    [
        (FALLEN, True),
        ([*FALLEN[:2], (0.56, 1.05), (0.54, 1.1)], False),  # only once
        ([*FALLEN[:3], (0.54, 1.09)], False),  # its loss has not risen enough
        ([*FALLEN[:3], (0.61, 1.2)], False),  # its accuracy still grows
    ],
)
def test_forward_excludes_after_two_drops_with_rising_loss(points: Points, leaves: bool) -> None:
    report = _report(0, "ab", a=points, b=[0.1, 0.2, 0.3, 0.4])
    decision = Forward(0.05).observe(report)
    assert decision.exclude == (("a",) if leaves else ())
    assert decision.roll_back_to == report.last
    assert decision.weights == ({"a": 0.1} if leaves else None)


def test_forward_sees_a_peak_of_an_earlier_round() -> None:
    first = _report(0, "ab", a=FALLEN[:2], b=[0.1, 0.2])
    second = _report(1, "ab", (first,), a=FALLEN[1:3], b=[0.2, 0.3])
    third = _report(2, "ab", (first, second), a=FALLEN[2:], b=[0.3, 0.4])
    assert Forward(0.05).observe(second).exclude == ()
    assert Forward(0.05).observe(third).exclude == ("a",)


def test_forward_readmits_the_forgotten_and_judges_it_anew() -> None:
    first = _report(0, "ab", a=FALLEN, b=[0.1, 0.2, 0.3, 0.4])
    second = _report(1, "b", (first,), a=[(0.54, 1.1), (0.44, 1.3), (0.43, 1.3)], b=[0.4, 0.4, 0.4])
    assert Forward(0.05).observe(second).include == ()
    decision = Forward(0.05, readmit_drop=0.1).observe(second)
    assert (decision.include, decision.weights) == (("a",), None)
    third = _report(2, "ab", (first, second), a=[(0.43, 1.3), (0.5, 1.2), (0.5, 1.2)], b=[0.4, 0.4, 0.4])
    assert Forward(0.05, readmit_drop=0.1).observe(third).exclude == ()


def test_forward_random_control_excludes_as_many_and_repeats() -> None:
    report = _report(0, "abcdef", a=FALLEN, **{name: [0.1, 0.2, 0.3, 0.4] for name in "bcdef"})
    drawn = [Forward(0.05, random_seed=seed).observe(report).exclude for seed in range(20)]
    assert {len(names) for names in drawn} == {1}
    assert len(set(drawn)) > 2
    assert drawn == [Forward(0.05, random_seed=seed).observe(report).exclude for seed in range(20)]


def test_dynamix_shares_are_the_sources_formula() -> None:
    policy, prior = Dynamix(gamma=0.3, alpha=0.5, beta=2.0), {"a": 0.75, "b": 0.25}
    assert policy.shares({"a": 0.0, "b": 0.0}, prior) == pytest.approx({"a": 0.675, "b": 0.325})
    values = policy.update({"a": 0.2, "b": 0.0}, before={"a": 2.0, "b": 1.0}, after={"a": 1.8, "b": 0.5})
    assert values == pytest.approx({"a": 0.1, "b": 0.5})  # min-max: a gained least, b most
    soft_a, soft_b = math.exp(0.2) * 0.75, math.exp(1.0) * 0.25
    share_a = 0.7 * soft_a / (soft_a + soft_b) + 0.15
    assert policy.shares(values, prior) == pytest.approx({"a": share_a, "b": 1 - share_a})


@pytest.mark.parametrize(
    ("losses", "is_mastered"),
    [
        ([1.0, 0.5], False),  # too few passes
        ([1.0, 0.5, 0.0005], True),  # falls steadily
        ([1.0, 0.5, 0.4], False),
        ([9.0, 1.0, 0.5, 0.4, 0.3, 0.2, 0.1], True),  # the last five count
        ([9.0, 9.0, 1.0, 0.5, 0.4, 0.3, 0.2], False),  # bends of 0.4, 0 and 0
    ],
)
def test_ies_masters_a_row_whose_loss_no_longer_bends(losses: list[float], is_mastered: bool) -> None:
    assert Ies(delta=1e-3).is_mastered(losses) == is_mastered


def test_ies_averages_over_its_window() -> None:
    assert not Ies(delta=0.1, window=3).is_mastered([1.0, 0.5, 0.4, 0.3, 0.2])  # bends 0.4, 0, 0: mean 0.133
    assert Ies(delta=0.14, window=3).is_mastered([1.0, 0.5, 0.4, 0.3, 0.2])


def _problems(search: dict[str, Any]) -> list[str]:
    raw = {
        "name": "x",
        "model": {"from_config": {"model_type": "llama"}, "tokenizer": "characters"},
        "mixture": {"sub_datasets": [{"name": "a", "synthetic": {"skill": "max"}}]},
        "search": {"max_epochs": 1, **search},
    }
    try:
        parse_config(raw, "x.yaml")
    except ConfigError as error:
        return list(error.problems)
    return []


@pytest.mark.parametrize(
    ("search", "problem"),
    [
        ({"method": "forwards"}, "search.method: got 'forwards'; expected a method or preset; did you mean forward?"),
        ({"method": "sft", "min_delta": 0.1}, "search: min_delta takes no effect with method=sft; leave it out"),
        ({"method": "sft", "options": {"delta": 1}}, "search.options.delta: unknown key; known keys: none"),
        ({"method": "ies", "options": {"gamma": 1}}, "search.options.gamma: unknown key; known keys: delta, window"),
        (
            {"method": "forward", "options": {"persist": "two"}},
            "search.options.persist: got 'two'; expected a whole number",
        ),
        (
            {"method": "forward", "options": {"persist": 0}},
            "search.options.persist: got 0; expected a number of at least 1",
        ),
        (
            {"method": "dynamix_sft", "options": {"gamma": 2.0}},
            "search.options.gamma: got 2.0; expected a number of at most 1.0",
        ),
    ],
)
def test_invalid_methods_and_options_are_refused(search: dict[str, Any], problem: str) -> None:
    assert _problems(search) == [problem]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_configured_by_name(method: str) -> None:
    assert _problems({"method": method}) == []
    if takes(method, "min_delta"):
        assert _problems({"method": method, "min_delta": 0.1}) == []
