"""A sweep's grid, the peaks and shifts it reads from journals, and its plots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tasks.comparison.categories import split_by_column
from tasks.comparison.grid import Axis, plan_sweep, read_axis
from tasks.comparison.peak_shifts import peak_epochs, peak_shifts
from tasks.comparison.plots import save_figure
from tasks.comparison.sweep_plots import plot_axis, plot_peaks, plot_shifts
from tasks.comparison.sweep_report import points_frame
from tasks.config.loading import search_id_of
from tasks.errors import ConfigError, DataError
from tasks.record.ownership import directory_of
from tests.unit.made_up_findings import config_of, finding_of


def test_an_axis_is_read_as_yaml() -> None:
    axis = read_axis("training.learning_rate=1.0e-5,2.0e-5")
    assert (axis.name, axis.values) == ("learning_rate", (1e-5, 2e-5))
    assert read_axis("search.rule=paper,guarded").values == ("paper", "guarded")
    for text in ("search.rule", "search.rule=", "=1", "a=[1"):
        with pytest.raises(ConfigError, match="wanted the form"):
            read_axis(text)


def test_the_grid_has_a_search_of_its_own_for_each_point_method_and_seed() -> None:
    axes = (
        read_axis("search.compute_budget_epochs=1,2"),
        read_axis("num_sub_datasets=1,2"),
        read_axis("rows=50,100"),
    )
    arms, control = plan_sweep(config_of(), axes, ("msft", "sft"), (1, 2))
    assert control == "sft"
    assert len({search_id_of(arm.config) for arm in arms}) == 8 * 2 * 2
    assert len({directory_of(arm.config).name.rpartition("-")[0] for arm in arms}) == 8 * 2
    last = arms[-1].config
    assert arms[-1].point == {"compute_budget_epochs": "2", "num_sub_datasets": "2", "rows": "100"}
    assert (last.search.compute_budget_epochs, len(last.mixture.sub_datasets)) == (2, 2)
    assert [s.max_rows.train for s in last.mixture.sub_datasets] == [100, 100]
    assert [s.name for s in arms[0].config.mixture.sub_datasets] == ["max"]


def test_the_first_sub_datasets_keep_their_weights() -> None:
    config = config_of(mixture=config_of().mixture.model_dump() | {"proportions": {"max": 2.0, "roman": 1.0}})
    arms, _ = plan_sweep(config, (read_axis("num_sub_datasets=1"),), ("msft",), ())
    assert arms[0].config.mixture.proportions == {"max": 2.0}


@pytest.mark.parametrize(
    ("axis", "problem"),
    [
        ("num_sub_datasets=3", "wanted a whole number from 1 to 2"),
        ("num_sub_datasets=0", "wanted a whole number from 1 to 2"),
        ("search.compute_budget_epochs=-1", "wanted a number above 0"),
        ("search.no_such=1", "unknown key"),
        ("split=max", "wanted NAME:COLUMN, or none"),
        ("split=max:label", "generated rows have no columns"),
        ("split=nobody:label", "no such sub-dataset; there are max, roman"),
    ],
)
def test_a_point_that_cannot_be_searched_is_refused_before_any_is(axis: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        plan_sweep(config_of(), (read_axis(axis),), ("msft",), ())


def test_an_axis_that_a_method_sets_itself_is_refused() -> None:
    axis = read_axis("search.compute_budget_epochs=1,2")
    with pytest.raises(ConfigError, match=r"msft_plus sets search\.compute_budget_epochs itself"):
        plan_sweep(config_of(), (axis,), ("sft", "msft_plus"), ())


def test_two_axes_of_one_name_are_refused() -> None:
    axes = (Axis(path="a.x", values=(1,)), Axis(path="b.x", values=(2,)))
    with pytest.raises(ConfigError, match="each of another name; got x, x"):
        plan_sweep(config_of(), axes, (), ())


def test_a_long_name_is_cut_to_what_a_search_may_be_called_and_stays_its_own() -> None:
    axes = (read_axis(f"search.compute_budget_epochs={'1' * 40},{'1' * 39}2"),)
    arms, _ = plan_sweep(config_of(), axes, ("msft",), ())
    names = {arm.config.name for arm in arms}
    assert len(names) == 2
    assert max(len(name) for name in names) == 64


def write_rows(folder: Path, split: str, subjects: str) -> None:
    folder.mkdir(exist_ok=True)
    rows = [
        {"prompt": f"{split} {i}?", "completion": " yes", "subject": s}
        for i, s in enumerate(subjects.split())
    ]
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_categories_of_a_sub_dataset_become_sub_datasets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, subjects in (("train", "a b a c/d rare"), ("validation", "a b c/d"), ("test", "b a c/d")):
        write_rows(tmp_path / "exam", split, subjects)
    sub_datasets = [
        {"name": "exam", "path": str(tmp_path / "exam")},
        {"name": "max", "synthetic": {"skill": "max"}},
    ]
    config = config_of(output_root=str(tmp_path / "out"), mixture={"sub_datasets": sub_datasets})
    fine = split_by_column(config, "exam", "subject")
    assert [s.name for s in fine.mixture.sub_datasets] == ["exam-a", "exam-b", "exam-c_d", "max"]
    path = fine.mixture.sub_datasets[0].path
    assert path is not None
    assert [json.loads(row)["prompt"] for row in Path(path, "train.jsonl").read_text().splitlines()] == [
        "train 0?",
        "train 2?",
    ]
    assert "left out for want of rows in every split: rare" in capsys.readouterr().out
    assert split_by_column(config, "exam", "subject") == fine, "written again, it is the same search"
    with pytest.raises(DataError, match="a value in topic"):
        split_by_column(config, "exam", "topic")


def round_of(
    index: int,
    curves: dict[str, list[float]],
    active: str,
    exclude: str = "",
    back_to: int = -1,
    start: Any = None,
) -> dict[str, Any]:
    """Return a round's event; `curves` has scores by step of 1, `back_to` the index of the point rolled back to."""
    first = start or {"round": 0, "step": 0}
    num_steps = len(next(iter(curves.values()))) - 1
    keys = [first, *({"round": index, "step": first["step"] + 1 + i} for i in range(num_steps))]
    return {
        "round": index,
        "sub_datasets": list(curves),
        "active": active.split(),
        "curves": [
            {
                "sub_dataset": name,
                "points": [{"checkpoint": k, "score": s} for k, s in zip(keys, scores, strict=True)],
            }
            for name, scores in curves.items()
        ],
        "decision": {"exclude": exclude.split(), "roll_back_to": keys[back_to]},
    }


FIRST = round_of(0, {"a": [0, 5, 4, 3, 2], "b": [0, 1, 2, 3, 3], "c": [0, 1, 5, 4, 4]}, "a b c", "a", 1)
SECOND = round_of(
    1,
    {"a": [5, 1, 1, 1, 1], "b": [1, 2, 3, 4, 5], "c": [1, 2, 1, 1, 1]},
    "b c",
    start={"round": 0, "step": 1},
)


def test_peaks_are_epochs_of_the_full_mixture_and_the_earliest_on_ties() -> None:
    """Two evaluations an epoch; means of the mixture: 0, 7, 11, 10, 9 thirds."""
    found = {row["sub_dataset"]: row for row in peak_epochs([FIRST, SECOND], 2)}
    assert {name: row["peak_epoch"] for name, row in found.items()} == {"a": 0.5, "b": 1.5, "c": 1.0}
    assert {row["mixture_peak_epoch"] for row in found.values()} == {1.0}


def test_peaks_go_on_through_rounds_that_exclude_nothing() -> None:
    first = round_of(0, {"a": [0, 1, 2], "b": [0, 3, 1]}, "a b")
    second = round_of(1, {"a": [2, 3, 9], "b": [1, 1, 1]}, "a b", start={"round": 0, "step": 2})
    found = {row["sub_dataset"]: row["peak_epoch"] for row in peak_epochs([first, second], 1)}
    assert found == {"a": 4.0, "b": 1.0}


def test_a_shift_is_between_epochs_on_the_accepted_path() -> None:
    """Rolled back to 0.5 epochs: b's peak moves from 1.5 to 0.5 + 2, c's from 1.0 to 0.5 + 0.5."""
    found = peak_shifts([FIRST, SECOND], 2)
    assert [(row["sub_dataset"], row["excluded"], row["peak_after"], row["shift"]) for row in found] == [
        ("b", "a", 2.5, 1.0),
        ("c", "a", 1.0, 0.0),
    ]


def test_no_shift_is_told_where_none_or_several_were_excluded() -> None:
    advanced = round_of(0, {"a": [0, 1], "b": [0, 1]}, "a b")
    assert peak_shifts([advanced, SECOND], 1) == []
    assert peak_shifts([FIRST], 2) == []


FINDINGS = [
    finding_of(method, seed, {"max": rate}, flops=c * 1e12, point={"C": str(c)})
    for method, rate in (("sft", 0.5), ("msft", 0.7))
    for c in (1, 2)
    for seed in (1, 2)
]


def test_each_point_is_compared_with_the_control_at_that_point() -> None:
    summary = points_frame(FINDINGS, "sft").set_index(["C", "method"])
    assert len(summary) == 4
    assert summary.loc[("2", "msft"), "difference"] == pytest.approx(0.2)
    assert summary.loc[("1", "msft"), "flops"] == 1e12


def test_the_plots_show_what_the_frames_hold(tmp_path: Path) -> None:
    figure = plot_axis(points_frame(FINDINGS, "sft"), "C", ["C"])
    lines = [list(container.lines[0].get_xydata().flat) for container in figure.axes[0].containers]  # type: ignore[attr-defined]
    assert lines == [pytest.approx([1, 50, 2, 50]), pytest.approx([1, 70, 2, 70])]
    peaks = plot_peaks(pd.DataFrame(peak_epochs([FIRST], 2)))
    assert "mixture's peak: 0.33 epochs" in peaks.get_suptitle()
    shifts = plot_shifts(pd.DataFrame(peak_shifts([FIRST, SECOND], 2)))
    assert "mean absolute shift: 0.50" in shifts.get_suptitle()
    for number, plot in enumerate((figure, peaks, shifts)):
        assert all(path.stat().st_size > 1000 for path in save_figure(plot, tmp_path / str(number)))
