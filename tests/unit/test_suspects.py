"""Suspect rows: which checkpoints answer them, and where they are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from tasks.algorithm.state import CheckpointKey
from tasks.commands.suspects import suspects_of
from tasks.config.identity import search_id_of
from tasks.config.loading import load_config
from tasks.contracts import EvaluationCost, RoundCurves
from tasks.errors import ConfigError
from tasks.record.ownership import directory_of
from tasks.record.suspects import RoundSuspects, Suspect, Suspects, read_suspects
from tasks.record.view import read_view
from tasks.report.page import render_html, render_markdown
from tasks.reporting import frames_of
from tasks.suspects import new_peaks
from tests.unit.made_events import curve
from tests.unit.made_search import MadeSearch

BASE, FIRST, SECOND = CheckpointKey(0, 0), CheckpointKey(0, 10), CheckpointKey(0, 20)


def suspects(name: str, key: CheckpointKey, *labels: str) -> Suspects:
    rows = tuple(
        Suspect(row=n, where=f"{name}.jsonl, line {n + 1}", label=label, answer=" <b>", loss=2.5 - n)
        for n, label in enumerate(labels)
    )
    return Suspects(sub_dataset=name, key=key, num_rows=10, rows=rows)


def put(directory: Path, index: int, *found: Suspects) -> None:
    path = directory / "rounds" / f"{index:03d}" / "suspects.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(RoundSuspects(found=found, cost=EvaluationCost()).model_dump_json())


@pytest.fixture
def search(tmp_path: Path) -> MadeSearch:
    """Two rounds; `a` peaks in the first, `b` in the second."""
    made = MadeSearch(tmp_path / "made-0badcafe", ["a", "b"])
    made.decide({"a": [0.1, 0.9, 0.5], "b": [0.1, 0.2, 0.3]}).decide({"a": [0.5, 0.4], "b": [0.3, 0.6]})
    put(made.directory, 0, suspects("a", FIRST, " x", " y"), suspects("b", SECOND, " z"))
    put(made.directory, 1, suspects("b", CheckpointKey(1, 30)))
    return made


def test_only_new_peaks_answer_train_rows(search: MadeSearch) -> None:
    history = read_view(str(search.directory)).history
    keys = [CheckpointKey(1, 30), CheckpointKey(2, 40)]
    values = {"a": [0.4, 0.9], "b": [0.6, 0.7], "new": [0.5, 0.4]}
    curves = RoundCurves(curves=tuple(curve(n, keys, v) for n, v in values.items()), cost=EvaluationCost())
    assert new_peaks(history, curves) == {"b": CheckpointKey(2, 40), "new": CheckpointKey(1, 30)}
    base = RoundCurves(curves=(curve("new", [BASE, FIRST], [0.5, 0.5]),), cost=EvaluationCost())
    assert new_peaks(history, base) == {}, "at the base model nothing is learned"


def test_the_rows_at_the_best_peak_are_told(search: MadeSearch) -> None:
    view = read_view(str(search.directory))
    assert {name: (one.key, len(one.rows)) for name, one in view.suspects.items()} == {
        "a": (FIRST, 2),
        "b": (CheckpointKey(1, 30), 0),
    }
    assert "| a | round 0 step 10 | 10 | 2 | 20% |" in render_markdown(view)
    assert '<h2 id="suspects">' in render_html(view)


def test_the_frame_has_file_line_label_answer_and_loss(search: MadeSearch) -> None:
    search.crown()
    frame = frames_of(read_view(str(search.directory)))["suspects"]
    assert frame.to_dict("records")[0] == {
        "sub_dataset": "a", "row": 0, "where": "a.jsonl, line 1", "label": " x", "answer": " <b>", "loss": 2.5,
        "peak_round": 0, "peak_step": 10,
    }  # fmt: skip
    assert len(frame) == 2


def test_a_search_without_the_option_tells_nothing(tmp_path: Path) -> None:
    made = MadeSearch(tmp_path / "made-0badcafe", ["a"]).decide({"a": [0.1, 0.5]}).crown()
    view = read_view(str(made.directory))
    assert read_suspects(str(made.directory)) == {}
    assert "Suspect rows" not in render_markdown(view) + render_html(view)
    assert "suspects" not in frames_of(view)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    values: dict[str, Any] = {
        "name": "mine",
        "model": {"source": "none"},
        "mixture": {"sub_datasets": [{"name": "a", "path": "a"}, {"name": "b", "path": "b"}]},
        "search": {"max_epochs": 2},
        "output_root": str(tmp_path / "searches"),
    }
    (tmp_path / "mine.yaml").write_text(json.dumps(values))
    return tmp_path / "mine.yaml"


def test_the_option_is_no_part_of_a_searchs_id(config_file: Path) -> None:
    plain, asked = load_config(str(config_file)), load_config(str(config_file), ["evaluation.suspects=true"])
    assert search_id_of(plain) == search_id_of(asked)


def test_inspect_shows_suspects_or_how_to_get_them(config_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = load_config(str(config_file))
    with pytest.raises(ConfigError, match=r"expected those of a search with evaluation.suspects=true"):
        suspects_of(config, None)
    put(Path(directory_of(config)), 0, suspects("a", FIRST, " x", " y"))
    with pytest.raises(ConfigError, match="no sub-dataset 'c'; the mixture has a, b"):
        suspects_of(config, "c")
    shown = CliRunner().invoke(app, ["inspect", str(config_file), "--suspects", "--limit", "1"])
    assert shown.exit_code == 0
    assert "a.jsonl, line 1: labelled 'x', answered '<b>', loss 2.500" in caplog.text
    assert "and 1 more" in caplog.text
    printed = CliRunner().invoke(app, ["inspect", str(config_file), "a", "--suspects", "--json"]).stdout.splitlines()
    assert [json.loads(line)["label"] for line in printed] == [" x", " y"]
