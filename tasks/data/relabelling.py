"""Tokenized rows with other answers in place of their labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tasks.contracts import Metric, SplitRef
from tasks.data.tokenization import publish_rows, read_tokenized
from tasks.errors import DataError


class RelabelledRows(NamedTuple):
    """Rows with other answers.

    Attributes:
        split: None: no row is left.
        num_changed: rows whose answer is not their label.
        num_left_out: rows without an answer.
    """

    split: SplitRef | None
    num_changed: int
    num_left_out: int


def check_answered(name: str, metric: Metric) -> None:
    """Raise DataError for a sub-dataset whose rows have no answers."""
    if metric == "loss":
        raise DataError(
            name,
            "train",
            got="metric loss, which compares no answers",
            expected="for search.options.rehearse=relabelled, rows with answers",
            fix="set another metric for the sub-dataset, or another search.options.rehearse",
        )


def relabel(split: SplitRef, answers: Sequence[int | None], folder: Path) -> RelabelledRows:
    """Return a tokenized split with other answers in place of the labels, in a folder of `folder` named by its content.

    A choice takes the place of the labelled one, with the end that follows it. A row is left out, too, whose label is
    not the tokens of its choice.

    Args:
        answers: for each row the number of its choice, -1 for the label that it has, None to leave it out.
    """
    rows = read_tokenized(split).data.table.to_pylist()  # `to_list` would import torch
    relabelled = [_with_answer(row, answer) for row, answer in zip(rows, answers, strict=True)]
    left = [row for row in relabelled if row is not None]
    changed = sum(
        row is not None and row["input_ids"] != before["input_ids"]
        for row, before in zip(relabelled, rows, strict=True)
    )
    if not left:
        return RelabelledRows(None, 0, len(rows))
    sha256 = hashlib.sha256(f"{split.sha256} {[*answers]}".encode()).hexdigest()
    directory = folder / hashlib.sha256(f"{Path(split.directory).name} {sha256}".encode()).hexdigest()[:32]
    return RelabelledRows(publish_rows(_noted(left), directory, sha256), changed, len(rows) - len(left))


def _noted(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    return ({**row, "notes": []} for row in rows)


def _with_answer(row: Mapping[str, Any], answer: int | None) -> dict[str, Any] | None:
    if answer is None or answer in (-1, row["gold"]):
        return None if answer is None else dict(row)
    begin, gold, choice = row["prompt_length"], row["choice_ids"][row["gold"]], row["choice_ids"][answer]
    end = begin + len(gold)
    if row["input_ids"][begin:end] != gold:
        return None
    ids = [*row["input_ids"][:begin], *choice, *row["input_ids"][end:]]
    mask = [*row["loss_mask"][:begin], *([1] * len(choice)), *row["loss_mask"][end:]]
    text = row["choices"][answer]
    update = {"input_ids": ids, "loss_mask": mask, "num_tokens": len(ids)}
    return {**row, **update, "gold": answer, "completion": text, "answer": text.strip()}
