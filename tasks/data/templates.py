"""Fill a template with the columns of a row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter, ascii_uppercase
from typing import Any

from tasks.config.sub_datasets import OptionsConfig, TemplateConfig
from tasks.data.randomness import random_state
from tasks.data.values import opened, text_of


@dataclass(frozen=True)
class FilledTemplate:
    """The texts of a row; `choices` are the value of the row's column, or full completions."""

    prompt: str
    completion: str
    answer: str
    choices: Any


class _Filler(Formatter):
    """Fills format strings with the texts of values, not with Python's spelling of them; `field` is the last one."""

    field = ""

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        self.field = field_name
        if "." in re.sub(r"\[[^]]*\]", "", field_name):  # an attribute of Python's, such as a dict's `items`
            raise AttributeError(f"{{{field_name}}}; write a part of an object as {{column[part]}}")
        if "[" in field_name:
            kwargs = {column: opened(value) for column, value in kwargs.items()}
            container, _ = super().get_field(field_name[: field_name.rindex("[")], args, kwargs)
            if isinstance(container, str):  # of which Python would give a character
                raise TypeError(f"a text, which has no parts: {container!r:.80}")
        return super().get_field(field_name, args, kwargs)

    def format_field(self, value: Any, format_spec: str) -> Any:
        text = text_of(value)  # refuses lists, objects and infinite numbers
        return format(value, format_spec) if format_spec else text

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        return super().convert_field(text_of(value) if conversion else value, conversion)


def fill_template(template: TemplateConfig, row: Mapping[str, Any]) -> FilledTemplate:
    """Return the texts of one row.

    Raises:
        KeyError, IndexError, ValueError, AttributeError, TypeError, OverflowError: the template does not fit the row.
    """
    # Null and NaN are not text; NaN alone differs from itself.
    row = {column: value for column, value in row.items() if value is not None and value == value}
    choices: Any = template.choices
    if template.options is not None:
        lettered, right = _lettered(template.options, row)
        row, choices = {**row, **lettered[right]}, [_fill(template.completion, row | o) for o in lettered]
    elif isinstance(choices, str):
        choices = opened(row[choices])
    elif choices is not None:
        choices = [_fill(choice, row) for choice in choices]
    completion = _fill(template.completion, row)
    answer = _fill(template.answer, row) if template.answer is not None else completion.strip()
    return FilledTemplate(_fill(template.prompt, row), completion, answer, choices)


def _fill(text: str, row: Mapping[str, Any]) -> str:
    filler = _Filler()
    try:
        return filler.vformat(text, (), row)
    except Exception as error:
        error.add_note(filler.field)
        raise


def _lettered(options: OptionsConfig, row: Mapping[str, Any]) -> tuple[list[dict[str, str]], int]:
    """Return the columns of each option that a completion may name, and the index of the right option."""
    texts = _values(options.texts, row)
    letters = list(ascii_uppercase[: len(texts)])
    labels = letters if options.labels is None else _values(options.labels, row)
    if isinstance(options.labels, tuple):  # one label a text, for as many as any row has
        labels = labels[: len(texts)]
    right = _fill(options.right, row)
    if right not in labels and right in ("true", "false"):  # a truth value, whose labels may be Python's
        right = right.capitalize()
    if not len(labels) == len(texts) == len(letters) or labels.count(right) != 1:
        raise ValueError(f"options {texts!r:.120} with the labels {labels!r:.60}; {right!r:.40} is right")
    order = list(range(len(texts)))
    if options.shuffle:  # depends on the texts alone, so that every search shows the row in the same way
        order = [int(i) for i in random_state("options", *texts).permutation(len(texts))]
    lines = "\n".join(f"{letter}. {texts[i]}" for letter, i in zip(letters, order, strict=True))
    columns = [
        {"options": lines, "letter": letter, "option": texts[i]} for letter, i in zip(letters, order, strict=True)
    ]
    return columns, order.index(labels.index(right))


def _values(given: str | tuple[str, ...], row: Mapping[str, Any]) -> list[str]:
    """Return the texts of a column with a list, or of one format string per text."""
    if isinstance(given, tuple):
        return [_fill(text, row) for text in given]
    column = opened(_Filler().get_field(given, (), row)[0])
    if not isinstance(column, list):
        raise TypeError(f"{given} holds no list: {column!r:.80}")
    return [text_of(value) for value in column]
