"""Checks across splits and sub-datasets before training."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.config.loading import parse_config
from tasks.config.schema import SearchConfig
from tasks.data.examples import Example
from tasks.data.inputs import Splits, _check_overlap, _metric_of
from tasks.errors import ConfigError, SplitOverlapError


def _config(protocol: str = "validation", on_overlap: str = "error", **sub_dataset: Any) -> SearchConfig:
    return parse_config(
        {
            "name": "test",
            "model": {"source": "none"},
            "mixture": {"sub_datasets": [{"name": "a", "path": "a", **sub_dataset}], "on_overlap": on_overlap},
            "search": {"max_epochs": 1, "protocol": protocol},
        },
        "test",
    )


def _splits(train: str, validation: str, test: str) -> Splits:
    """Return splits with one row per letter."""
    texts = {"train": train, "validation": validation, "test": test}
    return {split: [Example(letter, " x", "x") for letter in letters] for split, letters in texts.items()}


def test_splits_without_a_shared_prompt_pass() -> None:
    _check_overlap(_config(), {"a": _splits("abc", "de", "f"), "b": _splits("ghi", "jk", "l")})


def test_a_prompt_twice_within_or_across_train_splits_passes() -> None:
    _check_overlap(_config(), {"a": _splits("aab", "cc", "d"), "b": _splits("ab", "e", "f")})


@pytest.mark.parametrize(
    ("splits", "pair"),
    [
        ({"a": _splits("abc", "b", "f")}, "a/train row 1 = a/validation row 0: 'b'"),
        ({"a": _splits("abc", "d", "c")}, "a/train row 2 = a/test row 0: 'c'"),
        ({"a": _splits("abc", "de", "e")}, "a/validation row 1 = a/test row 0: 'e'"),
        ({"a": _splits("abc", "d", "e"), "b": _splits("gh", "ia", "j")}, "a/train row 0 = b/validation row 1: 'a'"),
    ],
)
def test_a_prompt_in_two_splits_is_an_error_naming_both_rows(splits: dict[str, Splits], pair: str) -> None:
    with pytest.raises(SplitOverlapError, match="1 texts stand in two splits") as caught:
        _check_overlap(_config(), splits)
    assert pair in str(caught.value)


def test_prompts_that_differ_only_in_white_space_are_equal() -> None:
    splits = _splits("", "", "")
    splits["train"], splits["test"] = [Example("a  b\n", " x", "x")], [Example(" a b", " y", "y")]
    with pytest.raises(SplitOverlapError, match="'a b'"):
        _check_overlap(_config(), {"a": splits})


def test_ten_overlaps_are_shown_and_the_rest_counted() -> None:
    letters = "abcdefghijklmno"
    with pytest.raises(SplitOverlapError, match="15 texts") as caught:
        _check_overlap(_config(), {"a": _splits(letters, letters, "z")})
    assert str(caught.value).count(" = a/validation row") == 10
    assert "… and 5 more" in str(caught.value)


def test_an_overlap_can_be_set_to_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    _check_overlap(_config(on_overlap="warn"), {"a": _splits("abc", "b", "f")})
    printed = capsys.readouterr().out
    assert "warning:" in printed
    assert "a/train row 1 = a/validation row 0: 'b'" in printed


def test_the_papers_protocol_may_select_but_not_train_on_test() -> None:
    splits = _splits("abc", "de", "de")  # the validation rows are the test rows
    _check_overlap(_config("paper"), {"a": splits})
    with pytest.raises(SplitOverlapError, match="a/train row 0 = a/validation row 0"):
        _check_overlap(_config("paper"), {"a": _splits("abc", "ade", "ade")})


CHOICE, NUMBER = Example("p", " A", "A", (" A", " B")), Example("p", " 2+2 #### 4", "4")
PLAIN = Example("p", " x", "x")


@pytest.mark.parametrize(
    ("rows", "metric"),
    [
        ([CHOICE, CHOICE], "multiple_choice"),
        ([CHOICE, PLAIN], "exact_match"),
        ([NUMBER, NUMBER], "numeric"),
        ([NUMBER, PLAIN], "exact_match"),
        ([PLAIN], "exact_match"),
    ],
)
def test_auto_chooses_the_metric_that_all_rows_allow(rows: list[Example], metric: str) -> None:
    config = _config()
    assert _metric_of(config, config.mixture.sub_datasets[0], rows) == metric


@pytest.mark.parametrize(
    ("metric", "problem"),
    [
        ("multiple_choice", "multiple_choice, and a validation row has no choices"),
        ("loss", "loss gives no accuracy; set evaluation.selection to loss"),
    ],
)
def test_an_unusable_metric_is_refused(metric: str, problem: str) -> None:
    config = _config(metric=metric)
    with pytest.raises(ConfigError, match=r"mixture\.sub_datasets\.a\.metric: ") as caught:
        _metric_of(config, config.mixture.sub_datasets[0], [CHOICE, PLAIN])
    assert problem in str(caught.value)
