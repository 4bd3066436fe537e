"""Headroom of simulated curves, whose true headroom is known, and where it is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tasks.algorithm.curves import Curve, MetricPoint
from tasks.algorithm.state import CheckpointKey
from tasks.commands.headroom import load_both
from tasks.errors import ConfigError
from tasks.record.headroom import headroom_of, measure_headroom
from tasks.record.status import read_summary, status_of
from tasks.record.view import read_view
from tasks.report.markdown import tell_search
from tasks.report.page import render_html, render_markdown
from tasks.reporting import frames_of
from tests.unit.made_search import MadeSearch

NUM_SUB_DATASETS, NUM_CHECKPOINTS, NUM_ROWS = 6, 8, 100
STEPS = np.arange(NUM_CHECKPOINTS)


def learning(peaks: list[float], fall: float) -> np.ndarray:
    """Return the skill of each sub-dataset by checkpoint: it learns, and from its peak on it loses `fall` a step."""
    each = [0.9 * (1 - np.exp(-STEPS / 2)) - 0.4 - fall * np.maximum(0, STEPS - peak) for peak in peaks]
    return np.array(each)


SKILLS = {
    "flat": np.full((NUM_SUB_DATASETS, NUM_CHECKPOINTS), 0.3),
    "still learning": learning([9] * 6, 0.0),
    "a third overfits": learning([2, 9, 9, 2, 9, 9], 0.1),
    "half overfits by much": learning([2, 9, 2, 9, 2, 9], 0.2),
}


def answers(skill: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return whether each row is answered at each checkpoint: by skill, the row's own difficulty and some noise."""
    of_row = rng.standard_normal((NUM_SUB_DATASETS, 1, NUM_ROWS)) * 0.8**0.5
    noise = rng.standard_normal((NUM_SUB_DATASETS, NUM_CHECKPOINTS, NUM_ROWS)) * 0.2**0.5
    correct = (skill[:, :, None] + of_row + noise > 0).astype(np.float32)
    return {str(index): own for index, own in enumerate(correct)}


@pytest.mark.parametrize("kind", list(SKILLS))
def test_the_interval_holds_the_true_headroom(kind: str) -> None:
    """In 93 % of 100 searches or more; where there is none, few are told that there is some."""
    rng, rates = np.random.default_rng(11), stats.norm.cdf(SKILLS[kind])
    true = rates.max(axis=1).mean() - rates.mean(axis=0).max()
    found = [measure_headroom(answers(SKILLS[kind], rng)) for _ in range(100)]
    held = np.mean([one.low <= true + 1e-9 and true <= one.high + 1e-9 for one in found])
    says = np.mean([one.is_found for one in found])
    assert held >= 0.93
    assert np.mean([one.naive for one in found]) > true, "which is why it is cross-fitted"
    if true < 0.001:
        assert says <= 0.15
    if kind == "half overfits by much":
        assert says >= 0.75


def curves_of(correct: dict[str, list[str]], index: int = 0, first: int = 0) -> list[Curve]:
    return [
        Curve(name, tuple(MetricPoint(CheckpointKey(index, first + n), c.count("1") / len(c), 1.0, len(c), c)
                          for n, c in enumerate(own)))
        for name, own in correct.items()
    ]  # fmt: skip


OWN_BESTS = {"a": ["0" * 50, "1" * 50, "0" * 50], "b": ["0" * 50, "0" * 50, "1" * 50]}


def test_a_known_headroom_is_measured_without_error() -> None:
    found = headroom_of([curves_of(OWN_BESTS)])
    assert found is not None
    assert (found.estimate, found.error, found.low, found.high, found.naive) == (0.5, 0, 0.5, 0.5, 0.5)
    assert found.num_checkpoints == 3
    assert found.is_found
    assert headroom_of([curves_of(OWN_BESTS)]) == found, "the same rows give the same headroom"


def test_checkpoints_of_all_rounds_are_chosen_from() -> None:
    later = {"a": ["1" * 50], "b": ["1" * 50]}
    found = headroom_of([curves_of(OWN_BESTS), curves_of(later, 1, 7)])
    assert found is not None
    assert (found.estimate, found.num_checkpoints) == (0, 4)


@pytest.mark.parametrize(
    "correct",
    [{"a": ["01"], "b": ["10"]}, {"a": ["", ""], "b": ["01", "10"]}, {"a": ["0", "1"], "b": ["0", "1"]}, {}],
    ids=["one checkpoint", "rows not on record", "one row", "nothing"],
)
def test_headroom_is_unknown_without_rows_or_checkpoints(correct: dict[str, list[str]]) -> None:
    points = {
        name: tuple(MetricPoint(CheckpointKey(0, n), 0.5, 1.0, 2, c) for n, c in enumerate(own))
        for name, own in correct.items()
    }
    assert headroom_of([[Curve(name, own) for name, own in points.items()]]) is None


@pytest.fixture
def search(tmp_path: Path) -> MadeSearch:
    made = MadeSearch(tmp_path / "made-0badcafe", ["a", "b"], 50, rows=True)
    scores = {"a": [0.0, 0.9, 0.1], "b": [0.0, 0.1, 0.9]}
    return made.decide(scores).decide({"a": [0.1, 0.1], "b": [0.9, 0.9]}, stop_reason="enough").crown()


def test_headroom_is_told_wherever_a_search_is(search: MadeSearch) -> None:
    view = read_view(str(search.directory))
    assert view.headroom is not None
    assert view.headroom.estimate == pytest.approx(0.4, abs=0.05)
    text = f"at most {100 * view.headroom.estimate:.1f} ± {100 * view.headroom.error:.1f} points"
    assert f"**Headroom:** {text}" in tell_search(view)
    assert f"Headroom: {text}" in render_html(view)
    assert "exclusions by sub-dataset may win here" in render_markdown(view)
    assert status_of(str(search.directory), with_headroom=True).headroom == view.headroom
    assert read_summary(str(search.directory))["headroom"]["estimate"] == view.headroom.estimate
    frame = frames_of(view)["headroom"].set_index(["round", "sub_dataset"])
    assert frame.loc[(0, "mean"), "headroom"] == pytest.approx(0.4, abs=0.05)
    assert frame.loc[(1, "mean"), ["num_checkpoints", "high"]].tolist() == [4, view.headroom.high]
    assert frame.loc[(1, "a"), "headroom"] == view.headroom.by_sub_dataset["a"]


def test_a_search_by_loss_tells_no_headroom(tmp_path: Path) -> None:
    made = MadeSearch(tmp_path / "made-0badcafe", ["a", "b"], evaluation={"selection": "loss"})
    made.decide({"a": [-2.0, -1.0], "b": [-2.0, -1.0]}, stop_reason="enough").crown()
    view = read_view(str(made.directory))
    assert view.headroom is None
    assert "eadroom" not in render_markdown(view) + tell_search(view)
    assert "headroom" not in frames_of(view)


def test_headroom_runs_sft_ema_and_refuses_loss(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "name: mine\nmodel: {source: none}\nmixture: {sub_datasets: [{name: a, path: a}, {name: b, path: b}]}\n"
        "search: {method: msft_memory, max_epochs: 3}\n"
    )
    plain, full = load_both(str(file), [])
    assert (plain.name, plain.search.method, plain.training.ema) == ("mine-sft_ema", "sft", 0.99)
    assert (full.name, full.search.options.peak_window) == ("mine", "path")
    assert load_both(str(file), ["search.method=sft"])[1].search.options.peak_window == "path"
    with pytest.raises(ConfigError, match="got loss; expected accuracy"):
        load_both(str(file), ["evaluation.selection=loss"])
