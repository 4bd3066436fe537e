"""`rule: paired`: a sub-dataset leaves by its own validation rows, and a search in which none does is SFT."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.algorithm.curves import Curve, MetricPoint
from tasks.algorithm.mixture import plan_mixture, stop_reason_of
from tasks.algorithm.paired import fall_of
from tasks.algorithm.state import CheckpointKey, SearchState
from tasks.algorithm.strategy import Decision, Opening, RoundReport
from tasks.comparison.grid import configure
from tasks.config.schema import SearchConfig
from tasks.contracts import Mixture, SplitRef, SubDatasetDraws
from tasks.planning.simulation import simulate
from tasks.workers.training.batches import Draw, plan_steps
from tests.unit.made_up_findings import config_of
from tests.unit.test_pruning import INPUTS
from tests.unit.test_pruning import config_of as config_to_decide

NUM_ROWS, NUM_LOOKS, EVALS = 200, 5, 4


def paired(method: str = "msft", **search: Any) -> SearchConfig:
    return config_of(search={"max_epochs": 10, "method": method, "rule": "paired", **search})


def curve(name: str, rows: list[str], number: int = 0, first: int = 0, loss: float = 1.0) -> Curve:
    points = (
        MetricPoint(CheckpointKey(number, first + 10 * n), own.count("1") / len(own), loss * (n + 1), len(own), own)
        for n, own in enumerate(rows)
    )
    return Curve(name, tuple(points))


def right(count: int, num_rows: int = NUM_ROWS) -> str:
    return "1" * count + "0" * (num_rows - count)


def test_a_fall_counts_the_rows_lost_and_won_since_the_peak() -> None:
    """Of 200 rows, 40 were lost and none won; two thirds of them are compared."""
    fall = fall_of(curve("a", [right(100), right(160), right(120)]).points)
    assert 15 <= fall.lost <= 38
    assert (fall.won, fall.p_value) == (0, 2 * 0.5**fall.lost)
    assert fall_of(curve("a", [right(100), right(120)]).points).p_value == 1
    assert fall_of(curve("a", [right(100)]).points).p_value == 1


def test_as_many_rows_won_as_lost_are_no_fall() -> None:
    """The accuracy is the same, though every second row has changed."""
    assert fall_of(curve("a", ["10" * 100, "01" * 100]).points).p_value > 0.1


def test_points_without_rows_are_left_out() -> None:
    points = curve("a", [right(190), right(20), right(10)]).points
    bare = MetricPoint(points[0].checkpoint, 0.95, 1.0, NUM_ROWS)
    assert fall_of(points).p_value < 1e-6
    assert fall_of([bare, *points[1:]]).p_value > 1e-4
    assert fall_of([points[0], bare]).p_value == 1


@pytest.mark.parametrize("kind", ["flat", "learning", "falling"])
def test_few_clean_searches_exclude_and_most_falls_are_seen(kind: str) -> None:
    """60 searches of six sub-datasets over the whole path; at most 5 % of the clean ones exclude anything."""
    rng, rule = np.random.default_rng(3), paired().search.strategy().rule.among(6)  # type: ignore[attr-defined]
    steps = np.arange(NUM_LOOKS * EVALS + 1)
    skill = np.full(len(steps), 0.3) if kind == "flat" else 0.9 * (1 - np.exp(-steps / 4)) - 0.4
    skill = skill - (0.06 * np.maximum(0, steps - 6) if kind == "falling" else 0)
    excluded = 0
    for _ in range(60):
        of_row = rng.standard_normal((6, 1, NUM_ROWS)) * 0.8**0.5
        noise = rng.standard_normal((6, len(steps), NUM_ROWS)) * 0.2**0.5
        texts = [["".join(map(str, row)) for row in own] for own in (skill[:, None] + of_row + noise > 0).astype(int)]
        looks = range(EVALS + 1, len(steps) + 1, EVALS)
        excluded += any(rule.has_fallen(curve("a", own[:look])) for own in texts for look in looks)
    assert excluded >= 57 if kind == "falling" else excluded <= 3


@pytest.mark.parametrize(("method", "peak_window"), [("msft", "round"), ("msft", "path"), ("forward", None)])
def test_methods_exclude_what_the_test_says(method: str, peak_window: str | None) -> None:
    """`b` lost as much accuracy as `a`, but within chance of its fewer rows."""
    options = {"peak_window": peak_window} if peak_window else {"loss_guard": 0.0}
    strategy = paired(method, options=options).search.strategy()
    held = {"a": [right(80), right(160), right(120)], "b": [right(4, 10), right(8, 10), right(6, 10)]}
    report = RoundReport(0, ("a", "b"), tuple(curve(name, rows) for name, rows in held.items()), 10.0)
    decision = strategy.observe(report)
    assert decision.exclude == ("a",)
    assert "rows right at its peak and wrong now" in decision.reason
    assert decision.roll_back_to == CheckpointKey(0, 10 if method == "msft" else 20)
    clean = RoundReport(0, ("b",), report.curves[1:], 10.0)
    assert strategy.observe(clean) == strategy.observe(clean)
    assert strategy.observe(clean).exclude == ()


def test_the_level_counts_looks_and_sub_datasets() -> None:
    """10 epochs in roll-outs of 2 are five looks."""
    rule = paired().search.strategy().rule  # type: ignore[attr-defined]
    assert rule.level == pytest.approx(0.05 / 5)
    assert rule.among(8).level == pytest.approx(0.05 / 40)
    assert paired(max_rounds=2).search.strategy().rule.level == pytest.approx(0.05 / 2)  # type: ignore[attr-defined]
    assert config_of().search.strategy().rule.among(8).level is None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("search", "says"),
    [
        ({"method": "sft"}, "rule takes no effect with method=sft"),
        ({"method": "forward", "rule": "paper"}, "rule takes no effect with method=forward"),
        ({"min_delta": 0.1}, "min_delta takes no effect with rule=paired"),
        ({"method": "forward", "options": {"persist": 3}}, "options.persist takes no effect with rule=paired"),
        ({"method": "forward", "options": {"readmit_drop": 0.1}}, "options.readmit_drop takes no effect"),
    ],
)
def test_paired_refuses_settings_without_effect(search: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        paired(**search)


def test_paired_refuses_selection_by_loss() -> None:
    with pytest.raises(ValueError, match=r"got evaluation.selection=loss, expected accuracy"):
        config_of(search={"max_epochs": 4, "rule": "paired"}, evaluation={"selection": "loss"})


def test_a_shared_file_with_the_rule_serves_every_method() -> None:
    config = paired()
    assert configure(config, "sft", 1, "a").search.rule == "guarded"
    assert configure(config, "forward_ema", 1, "a").search.rule == "paired"
    assert configure(config_of(search={"max_epochs": 4, "rule": "paper"}), "forward", 1, "a").search.rule == "guarded"


def test_a_plan_of_the_rule_has_its_exclusions() -> None:
    config = config_to_decide(rule="paired", options={"peak_window": "path"})
    mixtures = simulate(config, INPUTS, INPUTS.names, lambda left: left[0] if left[1:] else None)
    assert [len(mixture.rows_per_epoch) for mixture in mixtures][:2] == [2, 1]
    assert sum(mixture.num_rows for mixture in mixtures) <= 1.1 * 6 * 80


class Split:
    def __init__(self, num_rows: int) -> None:
        self.num_rows, self.num_tokens = num_rows, 7 * num_rows


def mixture_of(plan: Any, splits: dict[str, Split], cursors: dict[str, int]) -> Mixture:
    draws = tuple(
        SubDatasetDraws(
            name=name,
            train=SplitRef(directory="", num_rows=split.num_rows, num_tokens=split.num_tokens, sha256=""),
            rows_per_epoch=plan.rows_per_epoch[name],
            cursor=cursors[name],
        )
        for name, split in splits.items()
    )
    shared = {name: value for name, value in vars(plan).items() if name in Mixture.model_fields}
    return Mixture(draws=draws, **shared)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(5, 60), min_size=1, max_size=4),
    st.sampled_from([1, 3, 8, 16]),
    st.sampled_from([1, 1.5, 2, 2.25]),
    st.sampled_from([1, 3, 4]),
    st.sampled_from([2, 3.4, 3.6, 5]),
    st.sampled_from([("by_size", "examples"), ("equal", "examples"), ("equal", "tokens")]),
)
def test_roll_outs_without_exclusions_are_the_steps_of_sft(
    sizes: list[int], batch: int, c: float, evals: int, budget: float, shares: tuple[str, str]
) -> None:
    """The same rows in the same steps, evaluated after the same ones, and no step more."""
    splits = {f"s{index}": Split(size) for index, size in enumerate(sizes)}
    search = {"max_epochs": budget, "compute_budget_epochs": c, "evals_per_epoch": evals, "rule": "paired"}
    config = config_of(search=search, training={"batch_size": batch, "device": "cpu"})
    config = config.model_copy(
        update={"mixture": config.mixture.model_copy(update={"proportions": shares[0], "share_unit": shares[1]})}
    )
    sft = configure(config, "sft", 1, "sft").mixture_settings
    names = tuple(splits)
    whole = plan_mixture(sft, splits, SearchState.opened(names, Opening(rollout_epochs=budget)))
    expected = plan_steps(mixture_of(whole, splits, dict.fromkeys(names, 0)), 5, batch)

    state, cursors = SearchState(active=names), dict.fromkeys(names, 0)
    steps: list[list[Draw]] = []
    offsets: list[int] = []
    while not state.is_finished:
        plan = plan_mixture(config.mixture_settings, splits, state)
        own = plan_steps(mixture_of(plan, splits, cursors), 5, batch)
        assert len(own) == plan.num_steps
        offsets += [len(steps) + offset for offset in plan.evaluation_offsets]
        steps += own
        for draw in (draw for step in own for draw in step):
            cursors[names[draw.sub_dataset]] += 1
        decision = Decision(CheckpointKey(state.round, len(steps)), "advance")
        reason = stop_reason_of(config.mixture_settings, plan, state, decision, plan.num_rows)
        state = SearchState(
            active=names, round=state.round + 1, checkpoint=decision.roll_back_to,
            spent_examples=state.spent_examples + plan.num_rows, stop_reason=reason,
        )  # fmt: skip
    assert steps == expected
    assert tuple(offsets) == whole.evaluation_offsets
