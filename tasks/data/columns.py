"""Guess from the names and values of columns which of them make up the prompt and the completion of a row."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.data.values import opened, text_of

Rows = Sequence[Mapping[str, Any]]
Template = dict[str, Any]

PROMPT_COLUMNS = (
    *("system", "system_prompt"),
    *("instruction", "question", "query", "problem", "prompt", "context", "passage", "premise"),
    *("hypothesis", "sentence", "text", "input", "source", "document", "article"),
)
COMPLETION_COLUMNS = ("completion", "output", "answer", "response", "target", "label", "solution", "summary")
CHOICES_COLUMNS = ("choices", "options")
# Columns of lists, which a CSV file can only hold as JSON.
LISTS = ("choices", "options", "endings", "answer_choices", "candidates", "alternatives", "mc_answers")
_OPENED = (*LISTS, "messages", "conversations", "conversation", "mc1_targets", "answers")
_SPEAKER_COLUMNS = ("role", "from", "speaker", "author", "sender")
_ID_NAME = re.compile(
    r"_?id|idx|index|u?uid|guid|hash|md5|sha\d*|row|.+[_-](id|idx|index|uuid|hash)|.+[a-z]Id", re.IGNORECASE
)
_ID_TEXT = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f-]{4,}", re.IGNORECASE)


def open_lists(sample: Rows) -> Rows:
    """Return rows with the lists and objects that their columns of lists hold as JSON."""
    return [{c: opened(v) if c.lower() in _OPENED else v for c, v in row.items()} for row in sample]


def turns_column(sample: Rows) -> str | None:
    """Return the column that tells whose turn a row is, of transcripts kept one row a turn; None in other rows."""
    for name in (name for name in sample[0] if name.lower() in _SPEAKER_COLUMNS):
        said = {str(row.get(name)).lower() for row in sample}
        if said & {"assistant", "gpt", "bot", "model", "agent"} and said & {"user", "human", "prompter", "customer"}:
            return name
    return None


def usable_columns(sample: Rows) -> list[str]:
    """Return the columns with a text or number in every row that a format string can name."""
    return [name for name in sample[0] if _is_field(name) and all(is_value(row.get(name)) for row in sample)]


def is_informative(name: str, sample: Rows) -> bool:
    """Return whether a column tells rows apart by more than their number: it is neither constant nor an id."""
    values = [row.get(name) for row in sample]
    texts = [str(value) for value in values]
    if is_id_name(name):
        return False
    if len(sample) > 1 and len(set(texts)) == 1:
        return False
    if len(sample) > 2 and all(
        isinstance(value, int) or (isinstance(value, str) and value.isdigit()) for value in values
    ):
        numbers = [int(text) for text in texts]
        if numbers == list(range(numbers[0], numbers[0] + len(numbers))):
            return False
    return not all(_ID_TEXT.fullmatch(text) for text in texts)


def is_id_name(name: str) -> bool:
    """Return whether a column is an id by its name."""
    return _ID_NAME.fullmatch(name) is not None


def guess_template(sample: Rows) -> tuple[Template, str] | None:
    """Return a template by the columns' names, or else by their order, and what to check of it.

    Returns None where no two columns could be learned one from the other.
    """
    sample = open_lists(sample)
    usable = usable_columns(sample)
    if _loses_text(sample, usable) or turns_column(sample) is not None:
        return None
    actual = {name.lower(): name for name in reversed(usable)}
    target = next((name for name in COMPLETION_COLUMNS if name in actual), "")
    known = [name for name in PROMPT_COLUMNS if name in actual and name != target]
    asked = [name for name in known if is_informative(actual[name], sample)] or known
    if not target and asked and (field := _first_answer(sample)) is not None:
        prompt = "\n".join(f"{{{actual[name]}}}" for name in asked)
        remark = f"{{{field}}}, the first of a row's answers; further ones count as wrong"
        return {"prompt": f"{prompt}\nAnswer:", "completion": f" {{{field}}}"}, remark
    is_certain = bool(target and asked)
    if not is_certain:
        telling = [name.lower() for name in usable if is_informative(name, sample)]
        target = target or next((name for name in telling[:0:-1] if name not in PROMPT_COLUMNS), "")
        asked = asked or [name for name in telling if name != target]
    if not (target and asked):
        return None
    prompt = "\n".join(f"{{{actual[name]}}}" for name in asked)
    template: Template = {"prompt": f"{prompt}\nAnswer:", "completion": f" {{{actual[target]}}}", **choices_of(sample)}
    return template, "the wording of the template" if is_certain else "the columns, guessed from their order"


def _first_answer(sample: Rows) -> str | None:
    """Return the field of the first text in a column of answers, such as `answers[text][0]`; None without one."""
    for name in (name for name in sample[0] if name.lower() in ("answers", "answer")):
        for row in sample:
            field: str = name
            value: Any = row.get(name)
            while value and isinstance(value, list | dict):
                keys: list[Any] = [0] if isinstance(value, list) else [k for k in ("text", "value") if k in value]
                field, value = (f"{field}[{keys[0]}]", value[keys[0]]) if keys else ("", None)
            if field != name and is_value(value):
                return field
    return None


def _loses_text(sample: Rows, usable: Sequence[str]) -> bool:
    """Return whether a template would leave out what some rows ask, or the options they give."""
    names = [name for name in sample[0] if name.lower() in (*PROMPT_COLUMNS, "history") and name not in usable]
    options = [name for name in sample[0] if name.lower() in CHOICES_COLUMNS and not choices_of(sample)]
    return any(row.get(name) for name in (*names, *options) for row in sample)


def choices_of(sample: Rows) -> Template:
    """Return the column of choices if every row has a list of them."""
    for column in CHOICES_COLUMNS:
        if all(isinstance(row.get(column), list) and len(row[column]) > 1 for row in sample):
            return {"choices": column}
    return {}


def is_text(value: Any) -> bool:
    """Return whether a value is a text that is not empty."""
    return isinstance(value, str) and bool(value.strip())


def is_value(value: Any) -> bool:
    """Return whether a value is a text that is not empty, a number or a truth value."""
    return is_text(value) or (isinstance(value, int | float) and value == value)


def texts_of(values: Sequence[Any]) -> list[str] | None:
    """Return the texts of values; None where one has none."""
    return [text_of(value) for value in values] if all(is_value(value) for value in values) else None


def _is_field(column: str) -> bool:
    """Return whether a format string can name the column."""
    return bool(column) and not column[0].isdigit() and not any(mark in column for mark in "{}[].!:")
