"""Problems of the data are told at once: up to ten a sub-dataset, each by file, line, column, got, expected and fix."""

from __future__ import annotations

import pytest

from tasks.errors import DataError, DataErrors
from tests.unit.bad_input import Place, rows

BAD = b'{"prompt": "p", "completion": " c"}\nnot json\n[]\n{"prompt": "p"}\n\n{"prompt": "p", "completion": " "}\n'


def _refused(place: Place, *names: str) -> DataErrors:
    config = place.config(*({"name": name, "path": name, "splits": {"test": None}} for name in names))
    with pytest.raises(DataErrors) as caught:
        place.prepare(config)
    return caught.value


def test_each_kind_of_bad_line_is_told_by_file_row_and_line(place: Place) -> None:
    place.write("a/train.jsonl", BAD)
    place.write("a/validation.jsonl", rows(3, 9))
    error = _refused(place, "a")
    file = place.directory / "a" / "train.jsonl"
    told = [str(problem).splitlines()[:3] for problem in error.problems]
    assert [lines[0] for lines in told] == [
        f"sub-dataset 'a', {file} row {row}, line {line}" for row, line in ((1, 2), (2, 3), (3, 4), (4, 6))
    ]
    assert ["not JSON" in told[0][1], "no object of columns" in told[1][1]] == [True, True]
    assert told[2][1:] == ["  column:   completion", "  got:      the columns {'prompt': 'str'}"]
    assert told[3][1:] == ["  column:   completion", "  got:      an empty completion, so every label is masked"]
    assert all("  fix:      " in str(problem) for problem in error.problems)


def test_the_problems_of_all_splits_and_sub_datasets_are_told(place: Place) -> None:
    for name in ("a", "b"):
        place.write(f"{name}/train.jsonl", BAD)
        place.write(f"{name}/validation.jsonl", BAD)
    error = _refused(place, "a", "b")
    assert [problem.sub_dataset for problem in error.problems] == ["a"] * 8 + ["b"] * 8


def test_ten_problems_are_shown_and_the_rest_counted(place: Place) -> None:
    place.write("a/train.jsonl", [{"prompt": "p"}] * 25)
    place.write("a/validation.jsonl", rows(3))
    error = _refused(place, "a")
    assert len(error.problems) == 10
    assert str(error).startswith("25 problems of the data:\n")
    assert str(error).endswith("… and 15 more")


def test_rows_that_cannot_be_scored_are_told_at_once(place: Place) -> None:
    place.write("a/train.jsonl", rows(3))
    place.write("a/validation.jsonl", [{"prompt": f"v {i}", "completion": " #### many"} for i in range(3)])
    error = _refused(place, "a")
    assert [str(problem).splitlines()[0] for problem in error.problems] == [
        f"sub-dataset 'a', validation row {index}" for index in range(3)
    ]


def test_one_problem_is_told_as_itself(place: Place) -> None:
    place.write("a/train.jsonl", [*rows(3), {"prompt": "p"}])
    place.write("a/validation.jsonl", rows(3, 9))
    config = place.config({"name": "a", "path": "a", "splits": {"test": None}})
    with pytest.raises(DataError, match=r"^sub-dataset 'a', .*train\.jsonl row 3, line 4\n"):
        place.prepare(config)
