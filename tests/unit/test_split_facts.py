"""What the rows of a split tell before training: dropped rows, constant answers, classes that differ over splits."""

from __future__ import annotations

import logging
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from scipy.stats import chi2_contingency

from tasks.algorithm.answer_shares import SplitFacts, facts_of, p_value_of_equal_shares, warnings_of
from tasks.data.inspection import inspect_rows
from tasks.record.view import read_view
from tasks.report.page import render_html, render_markdown
from tasks.report.tables import champion_table
from tests.unit.bad_input import Place, rows
from tests.unit.made_search import MadeSearch

LONG = {"prompt": "p" * 200, "completion": " x"}


def _warnings(answers: Mapping[str, Sequence[str]], copies: int = 1) -> list[str]:
    return warnings_of(answers, {split: len(own) // copies for split, own in answers.items()})


def test_copies_of_rows_are_no_further_draws() -> None:
    splits = {"train": ["a", "b", "b"] * 100, "validation": ["a"] * 150 + ["b"] * 150}
    assert len(_warnings(splits)) == 1
    assert _warnings(splits, copies=10) == []


def test_the_most_frequent_answer_and_its_share() -> None:
    facts = facts_of(["a"] * 89 + ["b"] * 11, 100, 7)
    assert (facts.num_rows, facts.num_dropped, facts.top_answer, facts.top_share) == (100, 7, "a", 0.89)
    assert facts_of(None, 3, 0).top_share is None


@pytest.mark.parametrize("seed", range(20))
def test_the_p_value_is_that_of_scipy(seed: int) -> None:
    drawn = random.Random(seed)
    classes = "abcdefg"[: drawn.randint(2, 7)]
    first, second = (
        Counter({label: drawn.randint(40, 80) for label in classes}),
        Counter({label: drawn.randint(20, 60) for label in classes}),
    )
    table = [[counts[label] for label in classes] for counts in (first, second)]
    expected = chi2_contingency(table, correction=False).pvalue
    assert p_value_of_equal_shares(first, second) == pytest.approx(expected, rel=1e-9)


def test_rare_classes_are_tested_together() -> None:
    first, second = Counter(a=100, b=100, c=1, d=2), Counter(a=100, b=100, e=3)
    table = [[100, 100, 3], [100, 100, 3]]
    assert p_value_of_equal_shares(first, second) == pytest.approx(chi2_contingency(table).pvalue)


def test_a_split_of_one_answer_is_told() -> None:
    constant, other, difference = _warnings({"validation": ["no"] * 200, "test": ["no"] * 200 + ["yes"] * 40})
    assert constant == "all 200 validation rows have the answer 'no', so their score tells nothing"
    assert other == "the answer 'no' alone scores 0.833 on test"
    assert "'yes' 0% and 17%" in difference


def test_classes_in_other_shares_are_told_with_the_test() -> None:
    told = _warnings({"train": ["a", "b"] * 100, "validation": ["a"] * 150 + ["b"] * 50})
    assert told == [
        "answers have other shares in train than in validation: 'a' 50% and 75% (chi-square test, p = 2e-07)"
    ]


def test_shares_that_chance_explains_are_not_told() -> None:
    drawn = random.Random(0)
    splits = {split: [drawn.choice("abc") for _ in range(300)] for split in ("train", "validation", "test")}
    assert _warnings(splits) == []


def test_answers_that_are_texts_are_no_classes() -> None:
    assert _warnings({"train": [f"a {i}" for i in range(99)], "validation": [f"b {i}" for i in range(99)]}) == []


def test_dropped_rows_are_counted_in_each_split(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    files = {
        f"{split}.jsonl": [*rows(5, start), *({**LONG, "prompt": f"{i}" * 200} for i in range(start, start + dropped))]
        for split, start, dropped in (("train", 100, 0), ("validation", 200, 3), ("test", 300, 2))
    }
    with caplog.at_level(logging.WARNING):
        ref = place.read({"mixture": {"on_too_long": "drop"}}, files)
    assert {split: (facts.num_rows, facts.num_dropped) for split, facts in ref.facts.items()} == {
        "train": (5, 0),
        "validation": (5, 3),
        "test": (5, 2),
    }
    assert ref.facts["validation"].top_share == 0.2  # of the rows that are left
    told = "sub: 3 of 8 validation rows are longer than training.max_length = 128 tokens and left out"
    assert told in ref.warnings
    assert told in caplog.text


@pytest.mark.parametrize("copied", [False, True])
def test_one_set_of_rows_under_two_names_is_told(place: Place, copied: bool) -> None:
    place.write("a/train.jsonl", rows(4))
    place.write("b/train.jsonl", rows(4) if copied else rows(4, 50))
    place.write("a/validation.jsonl", rows(2, 20))
    place.write("b/validation.jsonl", rows(2, 30))
    other = {"path": "b"} if copied else {"path": "./b/../a/train.jsonl", "max_rows": {"train": 3}}
    parts = ({"name": "first", "path": "a"}, {"name": "second", **other})
    config = place.config(*({**part, "splits": {"test": None}} for part in parts))
    first, second = place.prepare(config)
    assert first.warnings == ()
    assert second.warnings == ("second: its train rows are those of first, and so count twice in the mixture",)


def test_train_rows_that_two_sub_datasets_share_are_told(place: Place) -> None:
    spaced = [{**row, "prompt": f" {row['prompt']}"} for row in rows(2)]  # another text of the same words
    for name, train in {
        "a": rows(4),
        "b": [*spaced, *rows(3, 50)],
        "c": [*rows(1), *rows(1, 50), *rows(4, 60)],
    }.items():
        place.write(f"{name}/train.jsonl", train)
        place.write(f"{name}/validation.jsonl", rows(2, 100 + 10 * ord(name)))
    first, second, third = place.prepare(
        place.config(*({"name": name, "path": name, "splits": {"test": None}} for name in "abc"))
    )
    assert first.warnings == ()
    assert second.warnings == ("b: 2 of its 5 train rows stand in a too, and so count twice in the mixture",)
    assert third.warnings == tuple(
        f"c: 1 of its 6 train rows stand in {name} too, and so count twice in the mixture" for name in "ab"
    )


def test_inspect_tells_a_split_of_one_answer(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.write("data/train.jsonl", [{"prompt": f"p {i}", "completion": f" {i % 2}"} for i in range(40)])
    place.write("data/validation.jsonl", [{"prompt": f"v {i}", "completion": " 1"} for i in range(40)])
    config = place.config({"name": "sub", "path": "data", "splits": {"test": None}})
    with caplog.at_level(logging.WARNING):
        assert len(list(inspect_rows(config))) == 80
    assert "sub: all 40 validation rows have the answer '1', so their score tells nothing" in caplog.text
    assert "chi-square test" in caplog.text


def test_splits_may_have_two_forms(place: Place) -> None:
    chosen = [{"prompt": f"p {i}", "chosen": f"c {i}", "rejected": "r"} for i in range(4)]
    assert place.read({}, {"train.jsonl": chosen}).facts["validation"].num_rows == 3  # of prompt and completion


def test_a_form_that_was_recognized_is_told(place: Place) -> None:
    chosen = [{"prompt": f"p {i}", "chosen": f"c {i}", "rejected": "r"} for i in range(4)]
    ref = place.read({}, {"train.jsonl": chosen})
    assert ref.warnings == (
        "sub: rows are read as prompt, chosen and rejected (preferences): chosen is the completion; rejected is not "
        "used",
    )


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_the_report_shows_a_constant_answer_beside_each_score(tmp_path: Path, metric: str) -> None:
    search = MadeSearch(tmp_path / "made", ["one", "two"], evaluation={"selection": metric})
    search.decide({"one": [0.1, 0.8], "two": [0.2, 0.4]}, stop_reason="enough").crown(0.5)
    first, *rest = search.events()
    facts = {
        "one/validation": SplitFacts(200, 180, "no", 0.8125),
        "one/test": SplitFacts(300, 0, "no", 0.4375),
        "two/validation": SplitFacts(200, 0, "x", 0.0625),
    }
    warnings = ("one: all 200 train rows have the answer 'no'",)
    search.rewrite([first.model_copy(update={"facts": facts, "data_warnings": warnings}), *rest])
    view = read_view(str(search.directory))
    (line,) = (line for line in render_markdown(view).splitlines() if line.startswith("| one | never |"))
    cells = [cell.strip() for cell in line.split("|")]
    assert cells[6:8] == ["0.800", "0.812"]  # the champion on validation
    assert cells[-5:-3] == ["0.500", "0.438"]  # and on test
    assert "180 validation" in render_markdown(view)
    assert "all 200 train rows" in render_markdown(view)
    page = render_html(view)
    header, body, footer = (
        re.findall(rf"<{part}>.*?</{part}>", page.split('id="scores"')[1], re.DOTALL)[0]
        for part in ("thead", "tbody", "tfoot")
    )
    widths = {
        len(re.findall(r"<t[hd][ >]", row)) for part in (header, body, footer) for row in part.split("</tr>")[:-1]
    }
    assert len(widths) == 1
    assert '<td class="number">0.812</td>' in body
    assert view.crowned is not None
    table = champion_table(view, view.crowned.validation, view.crowned.test)
    assert {len(table.columns)} == {len(row) for row in table.rows}
    assert [column.heading for column in table.columns].count("constant answer") == 2
    assert "0.438" in table.text()
