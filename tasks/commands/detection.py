"""Guess from a data file's rows how they become prompts and completions, and by what they are scored."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.data.files import read_rows
from tasks.errors import InitError

_SAMPLE = 200
# Longer completions are hardly ever repeated word for word.
_LONG_COMPLETION = 200
_PROMPT_COLUMNS = (
    *("instruction", "question", "query", "problem", "prompt", "context", "passage", "premise"),
    *("hypothesis", "sentence", "text", "input", "source", "document", "article"),
)
_COMPLETION_COLUMNS = (
    *("completion", "output", "answer", "response", "target", "label", "solution", "summary"),
)
_CHOICES_COLUMNS = ("choices", "options")


@dataclass(frozen=True)
class RowForm:
    """How the rows of one sub-dataset are read.

    Attributes:
        form: in words.
        template: prompt and completion (and choices), or None where the rows need none.
        metric: the one that the search will find by itself, or `loss`.
        remark: what a person should look at; empty where nothing is in doubt.
    """

    form: str
    template: Mapping[str, str] | None
    metric: str
    num_rows: int
    longest_row: int
    remark: str = ""


def guess_form(name: str, file: Path) -> RowForm:
    """Return how the rows of a training file are to be read.

    Raises:
        DataError: the file cannot be read.
        InitError: it has no rows, or no two columns of which one could be learnt from the other.
    """
    rows = read_rows(name, file)
    sample = list(itertools.islice(rows, _SAMPLE))
    if not sample:
        raise InitError(
            f"{file}", got="no rows", wanted="one row a line", fix="fill the file, or take it away"
        )
    longest = max(_num_characters(row) for row in sample)
    num_rows = len(sample)
    for row in rows:
        num_rows, longest = num_rows + 1, max(longest, _num_characters(row))
    form, template, remark = _form_of(file, sample)
    return RowForm(form, template, _metric_of(sample, template), num_rows, longest, remark)


def _form_of(file: Path, sample: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, str] | None, str]:
    if all(isinstance(row.get("messages"), list) for row in sample):
        return "messages", None, ""
    if all(_is_text(row.get("prompt")) and _is_text(row.get("completion")) for row in sample):
        if any(row["prompt"][-1:].isspace() or row["completion"][:1].isspace() for row in sample):
            return "prompt and completion", None, ""
        remark = "prompt and completion meet without a space, so the template puts one between them"
        template = {"prompt": "{prompt}", "completion": " {completion}"}
        return "prompt and completion", {**template, **_choices_of(sample)}, remark
    return _from_columns(file, sample)


def _from_columns(file: Path, sample: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, str], str]:
    columns = [name for name in sample[0] if all(_is_value(row.get(name)) for row in sample)]
    usable = [name for name in columns if _is_field(name)]
    target = next((name for name in _COMPLETION_COLUMNS if name in _lowered(usable)), "")
    asked = [name for name in _PROMPT_COLUMNS if name in _lowered(usable) and name != target]
    certain = bool(target and asked)
    actual = {name.lower(): name for name in reversed(usable)}
    if not certain and len(usable) >= 2:
        target, asked = usable[-1].lower(), [usable[0].lower()]
    if not (target and asked):
        raise InitError(
            f"{file}",
            got=f"the columns {', '.join(sample[0]) or 'none'}",
            wanted="prompt and completion, messages, or two columns with a value in each row",
            fix='rename the columns, e.g. to {"prompt": …, "completion": …}, and run the same command again',
        )
    prompt = "\n".join(f"{{{actual[name]}}}" for name in asked)
    template = {"prompt": f"{prompt}\nAnswer:", "completion": f" {{{actual[target]}}}", **_choices_of(sample)}
    named = f"columns {', '.join(actual[name] for name in asked)} → {actual[target]}"
    left = [name for name in sample[0] if name.lower() not in (*asked, target, *_CHOICES_COLUMNS)]
    unsure = "a guess from the columns' order: check it" if not certain else "check the template's wording"
    remark = f"{unsure}; not used: {', '.join(left)}" if left else unsure
    return named, template, remark


def _choices_of(sample: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the column of choices, where every row has a list of them."""
    for column in _CHOICES_COLUMNS:
        if all(isinstance(row.get(column), list) and len(row[column]) > 1 for row in sample):
            return {"choices": column}
    return {}


def _metric_of(sample: Sequence[Mapping[str, Any]], template: Mapping[str, str] | None) -> str:
    texts = [_completion_of(row, template) for row in sample]
    if template is None and all(row.get("choices") for row in sample):
        return "multiple_choice"
    if template is not None and "choices" in template:
        return "multiple_choice"
    if all("####" in text for text in texts):
        return "numeric"
    return "loss" if statistics.median(len(text) for text in texts) > _LONG_COMPLETION else "exact_match"


def _completion_of(row: Mapping[str, Any], template: Mapping[str, str] | None) -> str:
    if template is not None:
        return template["completion"].format_map(row)
    if "messages" in row:
        last = row["messages"][-1] if row["messages"] else {}
        return str(last.get("content", "")) if isinstance(last, dict) else ""
    return str(row["completion"])


def _lowered(names: Sequence[str]) -> set[str]:
    return {name.lower() for name in names}


def _is_field(column: str) -> bool:
    """Say whether a format string can name a column."""
    return bool(column) and not column[0].isdigit() and not any(mark in column for mark in "{}[].!:")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_value(value: Any) -> bool:
    return _is_text(value) or (isinstance(value, int | float) and not isinstance(value, bool))


def _num_characters(row: Mapping[str, Any]) -> int:
    return sum(len(str(value)) for value in row.values())
