"""The report of a comparison or sweep, on made-up searches."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tasks.algorithm.state import CheckpointKey
from tasks.comparison.frames import (
    differences_frame,
    peak_epochs,
    peak_shifts,
    runs_frame,
    scores_frame,
    sub_datasets_frame,
    summary_frame,
)
from tasks.comparison.grid import Arm, plan_grid
from tasks.comparison.parallel import Outcome
from tasks.comparison.report import plot_axis, plot_comparison, plot_peaks, plot_shifts, save_figure
from tasks.comparison.runs import find_all, refuse_failures
from tasks.config.presets import PRESETS
from tasks.contracts import EvaluationCost, SubDatasetScore
from tasks.errors import DifferentDataError, IncompleteComparisonError
from tasks.record.journal import append_event
from tasks.record.ownership import directory_of
from tasks.report.comparison_page import page_of, warnings_of
from tasks.report.tables import in_markdown
from tests.unit.made_events import crowned, decided, interval, restart, started
from tests.unit.made_up_findings import config_of, finding_of
from tests.unit.test_peak_shifts import FIRST, SECOND

THREE = [
    finding_of(method, seed, {"max": rate, "roman": 0.5}, flops=flops)
    for method, rate, flops in (("sft", 0.6, 1e12), ("msft", 0.9, 2e12))
    for seed in (1, 2, 3)
]


def test_summary_has_mean_spread_and_difference_to_control() -> None:
    summary = summary_frame(THREE, "sft").set_index("method")
    assert list(summary["mean"]) == pytest.approx([0.55, 0.7])
    assert list(summary["std"]) == pytest.approx([0, 0])
    assert summary.loc["msft", "difference"] == pytest.approx(0.15)
    assert 0.05 < summary.loc["msft", "low"] < 0.15 < summary.loc["msft", "high"] < 0.25
    assert summary.loc["sft", ["difference", "low", "high"]].isna().all()
    assert list(summary["flops"]) == [1e12, 2e12]
    assert set(summary["num_seeds"]) == {3}


def test_each_sub_dataset_has_its_own_difference() -> None:
    frame = sub_datasets_frame(THREE, "sft").set_index(["method", "sub_dataset"])
    assert frame.loc[("msft", "max"), "difference"] == pytest.approx(0.3)
    assert frame.loc[("msft", "roman"), ["difference", "low", "high"]].tolist() == [0, 0, 0]


def test_differences_are_corrected_and_shown_by_seed() -> None:
    other = [finding_of("sft_ema", seed, {"max": 0.6 + 0.1 * seed, "roman": 0.5}) for seed in (1, 2, 3)]
    summary = summary_frame([*THREE, *other], "sft").set_index("method")
    assert summary.loc["msft", "p_holm"] == pytest.approx(min(1, 2 * summary.loc["msft", "p_value"]))
    assert summary.loc["sft_ema", "p_holm"] >= summary.loc["sft_ema", "p_value"] > 0.05
    assert summary.loc["msft", "flops_ratio"] == 2
    assert list(summary["num_pairs"]) == [0, 3, 3]
    differences = differences_frame([*THREE, *other], "sft").set_index(["method", "seed"])
    assert differences.loc["sft_ema", "difference"].tolist() == pytest.approx([0.05, 0.1, 0.15])
    assert "sft" not in differences.index.get_level_values("method")


def test_the_page_tells_seeds_correction_and_flops() -> None:
    frames = {"summary": summary_frame(THREE, "sft"), "differences": differences_frame(THREE, "sft")}
    rows = {name: f.astype(object).where(f.notna(), None).to_dict("records") for name, f in frames.items()}
    page = page_of("compare", rows, [], "SFT")
    title = in_markdown(PRESETS["msft"].title)
    assert (
        f"| difference by seed | 1 | 2 | 3 |\n| --- | ---: | ---: | ---: |\n| {title} | +15.0 | +15.0 | +15.0 |" in page
    )
    assert "corrected by Holm for 1 comparison" in page
    assert "3 seeds; a claim needs 5 or more" in page
    assert f"FLOPs differ from those of SFT, times: {title} 2.00" in page
    assert "test rows alone" in warnings_of([row | {"num_pairs": 1} for row in rows["summary"]], [], "SFT")[0]
    fine = [row | {"num_pairs": 5, "flops_ratio": row["flops_ratio"] and 1.0} for row in rows["summary"]]
    assert warnings_of(fine, [], "SFT") == []


def test_difference_is_over_common_seeds() -> None:
    own = [finding for finding in THREE if finding.arm.label != "sft, seed 3"]
    summary = summary_frame(own, "sft").set_index("method")
    assert summary["num_seeds"].to_dict() == {"sft": 2, "msft": 3}
    assert summary.loc["msft", "difference"] == pytest.approx(0.15)


def test_one_seed_has_no_spread() -> None:
    summary = summary_frame([finding for finding in THREE if finding.arm.seed == 1], "sft")
    assert summary["std"].isna().all()


def test_a_failed_search_has_a_row_and_fails_the_comparison() -> None:
    outcomes = [Outcome(arm=finding.arm) for finding in THREE]
    outcomes[1] = Outcome(arm=outcomes[1].arm, error="WorkerError: no memory")
    runs = runs_frame(outcomes, [*THREE[:1], *THREE[2:]])
    assert list(runs["error"]) == ["", "WorkerError: no memory", "", "", "", ""]
    assert runs["test_accuracy"].isna().tolist() == [False, True, False, False, False, False]
    with pytest.raises(IncompleteComparisonError, match=r"1 of 6 searches failed:\n.*sft, seed 2: WorkerError"):
        refuse_failures(outcomes)
    refuse_failures(outcomes[2:])


def test_scores_have_a_row_per_search_and_sub_dataset() -> None:
    scores = scores_frame(THREE)
    assert len(scores) == 6 * 2
    assert set(scores["accuracy"]) == {0.5, 0.6, 0.9}


def test_plot_has_each_method_at_its_flops_and_accuracy(tmp_path: Path) -> None:
    figure = plot_comparison(summary_frame(THREE, "sft"), "sft")
    points = [value for c in figure.axes[0].containers for value in c.lines[0].get_xydata()[0]]  # type: ignore[attr-defined]
    assert points == pytest.approx([1e12, 55, 2e12, 70])
    for path in save_figure(figure, tmp_path / "plot"):
        assert path.stat().st_size > 1000
    assert "mSFT" in (tmp_path / "plot.svg").read_text()


def end(arm: Arm, content: dict[str, str]) -> Outcome:
    """Write the journal of a finished search of two rounds, the second one discarded."""
    directory = directory_of(arm.config)
    directory.mkdir(parents=True)
    append_event(str(directory), started(content=content))
    for index, target in enumerate((4, 4)):
        costs = {"num_tokens": 100, "num_examples": 10, "flops": 6.0, "seconds": 2.0}
        event = decided(
            index,
            (0, target),
            intervals=(interval(CheckpointKey(index, 4 + 4 * index), **costs),),
            evaluation=EvaluationCost(num_tokens=30, num_examples=3, flops=1.0, seconds=0.5),
            # Work that a restart repeats is no cost of the method.
            restarts=(restart(num_tokens=70, num_examples=7, flops=9.0, seconds=9.0),),
        )
        append_event(str(directory), event)
    scores = tuple(
        SubDatasetScore(sub_dataset=name, accuracy=accuracy, loss=1, num_examples=4, correct="1100")
        for name, accuracy in (("max", 0.5), ("free text", None))
    )
    append_event(str(directory), crowned(CheckpointKey(0, 4), scores))
    return Outcome(arm=arm)


def test_a_finding_is_read_from_the_journal(tmp_path: Path) -> None:
    (arm,) = plan_grid(config_of(output_root=str(tmp_path)), ("msft",), (1,)).arms
    found = find_all([end(arm, {"max/test": "abc", "max/train": "def"})], same_data=True)[0]
    cost = found.cost
    assert (cost.train_tokens, cost.discarded_tokens, cost.evaluation_tokens) == (200, 100, 60)
    assert (cost.flops, cost.seconds) == (14.0, 5.0)
    assert [score.sub_dataset for score in found.test] == ["max"], "sub-datasets without an accuracy are left out"
    assert (found.accuracy, found.test_hashes) == (0.5, {"max": "abc"})


def test_searches_on_different_data_are_not_compared(tmp_path: Path) -> None:
    arms = plan_grid(config_of(output_root=str(tmp_path)), ("sft", "msft"), (1, 2)).arms
    one, two, three, four = (end(arm, {"max/test": text}) for arm, text in zip(arms, "abcc", strict=True))
    assert len(find_all([three, four], same_data=True)) == 2
    with pytest.raises(
        DifferentDataError, match="seed 1: sft, seed 1 .* max/test: was 'a', is 'b'".replace(" .* ", "(.|\n)*")
    ):
        find_all([one, two, three, four], same_data=True)
    assert len(find_all([one, two, three, four], same_data=False)) == 4


FINDINGS = [
    finding_of(method, seed, {"max": rate}, flops=c * 1e12, point={"C": str(c)})
    for method, rate in (("sft", 0.5), ("msft", 0.7))
    for c in (1, 2)
    for seed in (1, 2)
]


def test_each_point_has_its_own_control() -> None:
    summary = summary_frame(FINDINGS, "sft").set_index(["C", "method"])
    assert len(summary) == 4
    assert summary.loc[("2", "msft"), "difference"] == pytest.approx(0.2)
    assert summary.loc[("1", "msft"), "flops"] == 1e12


def test_the_page_of_a_sweep_tells_each_point() -> None:
    frames = {"summary": summary_frame(FINDINGS, "sft"), "differences": differences_frame(FINDINGS, "sft")}
    rows = {name: f.astype(object).where(f.notna(), None).to_dict("records") for name, f in frames.items()}
    page = page_of("sweep", rows, ["C"], "SFT")
    assert "corrected by Holm for 2 comparisons" in page
    assert f"\n| 2 | {in_markdown(PRESETS['msft'].title)} | +20.0 | +20.0 |\n" in page


def test_plots_show_the_numbers_of_the_frames(tmp_path: Path) -> None:
    figure = plot_axis(summary_frame(FINDINGS, "sft"), "C", ["C"])
    lines = [list(container.lines[0].get_xydata().flat) for container in figure.axes[0].containers]  # type: ignore[attr-defined]
    assert lines == [pytest.approx([1, 50, 2, 50]), pytest.approx([1, 70, 2, 70])]
    peaks = plot_peaks(pd.DataFrame(peak_epochs([FIRST], 2)))
    assert "mixture's peak: 0.33 epochs" in peaks.get_suptitle()
    shifts = plot_shifts(pd.DataFrame(peak_shifts([FIRST, SECOND], 2)))
    assert "mean absolute shift: 0.50" in shifts.get_suptitle()
    for number, plot in enumerate((figure, peaks, shifts)):
        assert all(path.stat().st_size > 1000 for path in save_figure(plot, tmp_path / str(number)))


def test_methods_that_coincide_have_markers_of_their_own() -> None:
    summary = summary_frame(THREE, "sft")
    figure = plot_comparison(summary.assign(mean=0.5, flops=1e12), "sft")
    markers = [c.lines[0] for c in figure.axes[0].containers]  # type: ignore[attr-defined]
    assert {marker.get_markerfacecolor() for marker in markers} == {"none"}
    assert len({marker.get_markersize() for marker in markers}) == len(summary)
