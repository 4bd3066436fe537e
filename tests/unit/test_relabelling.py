"""Rows with the answers of a checkpoint in place of their labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.contracts import SplitRef
from tasks.data.encoder import Encoder
from tasks.data.examples import Example
from tasks.data.relabelling import check_answered, relabel
from tasks.data.tokenization import read_tokenized, tokenize_split
from tasks.errors import DataError

CHOICES = (" no", " yes", " never")


@pytest.fixture
def encoder(base: Path) -> Encoder:
    return Encoder(str(base), 128, trust_remote_code=False)


def split_of(encoder: Encoder, labels: list[int], folder: Path) -> SplitRef:
    rows = [
        Example(f"q{n}?", CHOICES[label], CHOICES[label].strip(), choices=CHOICES) for n, label in enumerate(labels)
    ]
    return tokenize_split(encoder, "it", "train", rows, folder / "tokens", "error")


def test_a_relabelled_row_is_the_row_with_that_label(encoder: Encoder, tmp_path: Path) -> None:
    """In every column, as if the file had said so."""
    made = relabel(split_of(encoder, [0, 1, 2, 0], tmp_path), [2, 1, 0, -1], tmp_path / "relabelled")
    assert made.split is not None
    assert (made.num_changed, made.num_left_out, made.split.num_rows) == (2, 0, 4)
    expected = split_of(encoder, [2, 1, 0, 0], tmp_path)
    assert read_tokenized(made.split).data.table.to_pylist() == read_tokenized(expected).data.table.to_pylist()
    assert made.split.num_tokens == expected.num_tokens


def test_a_row_without_an_answer_is_left_out(encoder: Encoder, tmp_path: Path) -> None:
    split = split_of(encoder, [0, 1, 2], tmp_path)
    made = relabel(split, [None, -1, None], tmp_path / "relabelled")
    assert made.split is not None
    assert (made.num_changed, made.num_left_out) == (0, 2)
    assert read_tokenized(made.split).data.table.to_pylist() == read_tokenized(split).data.table.to_pylist()[1:2]
    assert relabel(split, [None] * 3, tmp_path / "relabelled") == (None, 0, 3)


def test_the_same_answers_find_the_rows_that_were_made(encoder: Encoder, tmp_path: Path) -> None:
    split = split_of(encoder, [0, 1, 2], tmp_path)
    made, again, other = (relabel(split, answers, tmp_path / "to") for answers in ([1, 1, 1], [1, 1, 1], [1, 1, 0]))
    assert made.split == again.split
    assert made.split is not None
    assert other.split is not None
    assert made.split.directory != other.split.directory


def test_rows_that_are_scored_by_loss_have_no_answers() -> None:
    with pytest.raises(DataError, match=r"(?s)it.*metric loss.*rows with answers.*another search\.options\.rehearse"):
        check_answered("it", "loss")
