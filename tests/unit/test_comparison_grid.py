"""The searches that a comparison or sweep plans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.comparison.grid import Axis, plan_grid, read_axis, split_by_column
from tasks.config.identity import search_id_of
from tasks.config.loading import change_config
from tasks.config.presets import PRESETS
from tasks.errors import ConfigError, DataError
from tasks.record.ownership import directory_of
from tests.unit.made_up_findings import config_of


@pytest.mark.parametrize(
    "search", [{"min_delta": 0.02}, {"rule": "paper", "optimizer_on_rollback": "reset"}], ids=["guarded", "paper"]
)
def test_every_preset_fits_either_rule(search: dict[str, Any]) -> None:
    # With rule: paper, `msft` is the same search as `msft_paper`.
    methods = [name for name in PRESETS if not ("rule" in search and name == "msft_paper")]
    arms = plan_grid(config_of(search={"max_epochs": 4, **search}), methods, (1, 2)).arms
    assert len({search_id_of(arm.config) for arm in arms}) == 2 * len(methods)
    assert {arm.config.search.max_epochs for arm in arms} == {4}


def test_a_preset_changes_nothing_but_its_settings_seed_and_name() -> None:
    config = config_of(tracking={"uri": "postgresql://u:secret@h/db"})
    grid = plan_grid(config, ("msft", "sft"), (7,))
    msft, sft = (arm.config for arm in grid.arms)
    assert (grid.control, grid.kind) == ("sft", "comparison")
    assert msft == config.model_copy(update={"seed": 7, "name": "tiny-msft"})
    assert (sft.search.method, sft.search.min_delta) == ("sft", 0.05)
    assert sft.tracking.uri == "postgresql://u:secret@h/db"


def test_paper_mode_drops_options_and_averaging_of_the_file() -> None:
    search = {"max_epochs": 4, "options": {"rehearsal": 0.1, "loss_guard": 0.05}}
    config = config_of(search=search, training={"device": "cpu", "ema": 0.9})
    (arm,) = plan_grid(config, ("msft_paper",)).arms
    assert (arm.config.search.options.model_dump(), arm.config.training.ema) == ({}, None)


def test_two_methods_that_are_one_search_are_refused() -> None:
    config = config_of(training={"device": "cpu", "ema": 0.99})
    with pytest.raises(ConfigError, match="sft and sft_ema are one and the same search"):
        plan_grid(config, ("sft", "msft", "sft_ema"), (1, 2))


def test_a_comparison_over_several_machines_a_search_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"(?s)training.machines.*got more than 1.*expected 1, or run each by"):
        plan_grid(config_of(training={"machines": 2}))


def test_control_is_the_given_one_or_sft_or_the_first() -> None:
    assert plan_grid(config_of()).control == "sft"
    assert plan_grid(config_of(), ("msft_paper", "msft")).control == "msft_paper"
    assert plan_grid(config_of(), ("msft_paper", "msft"), control="msft").control == "msft"
    with pytest.raises(ConfigError, match="sft is not among the methods msft"):
        plan_grid(config_of(), ("msft",), control="sft")


def test_unknown_method_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="got 'mstf'; expected a method or preset; did you mean msft"):
        plan_grid(config_of(), ("sft", "mstf"))
    with pytest.raises(ConfigError, match="got 'zzz'; expected a method or preset; known: sft, sft_ema, sft_ema_soup"):
        plan_grid(config_of(), ("sft", "zzz"))


def test_none_restores_a_default_and_unknown_paths_are_refused() -> None:
    changed = change_config(config_of(), {"search.min_delta": None, "mixture.sub_datasets.max.name": "m"}, "x")
    assert changed.search.min_delta == 0.05
    assert changed.mixture.sub_datasets[0].name == "m"
    with pytest.raises(ConfigError, match=r"x: 1 problem\n.*training\.lr: unknown key"):
        change_config(config_of(), {"training.lr": 1}, "x")


def test_an_axis_is_read_as_yaml() -> None:
    axis = read_axis("training.learning_rate=1.0e-5,2.0e-5")
    assert (axis.name, axis.values) == ("learning_rate", (1e-5, 2e-5))
    assert read_axis("search.rule=paper,guarded").values == ("paper", "guarded")
    for text in ("search.rule", "search.rule=", "=1", "a=[1"):
        with pytest.raises(ConfigError, match="expected the form"):
            read_axis(text)


def test_grid_has_a_search_per_point_method_and_seed() -> None:
    axes = (read_axis("search.compute_budget_epochs=1,2"), read_axis("num_sub_datasets=1,2"), read_axis("rows=50,100"))
    grid = plan_grid(config_of(), ("msft", "sft"), (1, 2), axes=axes)
    arms = grid.arms
    assert (grid.control, grid.kind) == ("sft", "sweep")
    assert grid.axes == ("compute_budget_epochs", "num_sub_datasets", "rows")
    assert len({search_id_of(arm.config) for arm in arms}) == 8 * 2 * 2
    assert len({directory_of(arm.config).name.rpartition("-")[0] for arm in arms}) == 8 * 2
    last = arms[-1].config
    assert arms[-1].point == {"compute_budget_epochs": "2", "num_sub_datasets": "2", "rows": "100"}
    assert (last.search.compute_budget_epochs, len(last.mixture.sub_datasets)) == (2, 2)
    assert [s.max_rows.train for s in last.mixture.sub_datasets] == [100, 100]
    assert [s.name for s in arms[0].config.mixture.sub_datasets] == ["max"]


def test_the_first_sub_datasets_keep_their_weights() -> None:
    config = config_of(mixture=config_of().mixture.model_dump() | {"proportions": {"max": 2.0, "roman": 1.0}})
    (arm,) = plan_grid(config, ("msft",), axes=(read_axis("num_sub_datasets=1"),)).arms
    assert arm.config.mixture.proportions == {"max": 2.0}


@pytest.mark.parametrize(
    ("axis", "problem"),
    [
        ("num_sub_datasets=3", "expected a whole number from 1 to 2"),
        ("num_sub_datasets=0", "expected a whole number from 1 to 2"),
        ("search.compute_budget_epochs=-1", "expected a number above 0"),
        ("search.no_such=1", "unknown key"),
        ("split=max", "expected NAME:COLUMN, or none"),
        ("split=max:label", "generated rows have no columns"),
        ("split=nobody:label", "no such sub-dataset; there are max, roman"),
    ],
)
def test_invalid_points_are_refused_before_the_first_search(axis: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        plan_grid(config_of(), ("msft",), axes=(read_axis(axis),))


def test_axis_that_a_method_sets_is_refused() -> None:
    axis = read_axis("search.compute_budget_epochs=1,2")
    with pytest.raises(ConfigError, match=r"msft_plus sets search\.compute_budget_epochs itself"):
        plan_grid(config_of(), ("sft", "msft_plus"), axes=(axis,))


def test_two_axes_of_one_name_are_refused() -> None:
    axes = (Axis(path="a.x", values=(1,)), Axis(path="b.x", values=(2,)))
    with pytest.raises(ConfigError, match="axes of different names; got x, x"):
        plan_grid(config_of(), axes=axes)


def test_long_names_are_cut_and_stay_unique() -> None:
    axes = (read_axis(f"search.compute_budget_epochs={'1' * 40},{'1' * 39}2"),)
    names = {arm.config.name for arm in plan_grid(config_of(), ("msft",), axes=axes).arms}
    assert len(names) == 2
    assert max(len(name) for name in names) == 64


def write_rows(folder: Path, split: str, subjects: str) -> None:
    folder.mkdir(exist_ok=True)
    rows = [{"prompt": f"{split} {i}?", "completion": " yes", "subject": s} for i, s in enumerate(subjects.split())]
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_categories_of_a_sub_dataset_become_sub_datasets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, subjects in (("train", "a b a c/d rare"), ("validation", "a b c/d"), ("test", "b a c/d")):
        write_rows(tmp_path / "exam", split, subjects)
    sub_datasets = [{"name": "exam", "path": str(tmp_path / "exam")}, {"name": "max", "synthetic": {"skill": "max"}}]
    config = config_of(output_root=str(tmp_path / "out"), mixture={"sub_datasets": sub_datasets})
    fine = split_by_column(config, "exam", "subject")
    assert [s.name for s in fine.mixture.sub_datasets] == ["exam-a", "exam-b", "exam-c_d", "max"]
    path = fine.mixture.sub_datasets[0].path
    assert path is not None
    assert [json.loads(row)["prompt"] for row in Path(path, "train.jsonl").read_text().splitlines()] == [
        "train 0?",
        "train 2?",
    ]
    assert "left out, no rows in one of the splits: rare" in capsys.readouterr().out
    assert split_by_column(config, "exam", "subject") == fine, "written again, it is the same search"
    with pytest.raises(DataError, match="a value in topic"):
        split_by_column(config, "exam", "topic")
