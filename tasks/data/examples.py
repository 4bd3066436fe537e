"""Examples: the prompt, completion, answer, choices and messages of a row."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tasks.config.sub_datasets import SubDatasetConfig, TemplateConfig
from tasks.data.chats import Message, read_chat
from tasks.data.forms import Form, Row, nearest_form
from tasks.data.templates import fill_template
from tasks.data.values import opened, text_of
from tasks.errors import DataError


@dataclass(frozen=True)
class Example:
    """A row: a prompt and its completion, or a chat.

    Attributes:
        prompt, completion: texts; the completion includes its leading space. Of a chat, the completion is the last
            assistant's message, and the prompt is the text of all messages before it.
        choices: full completions of which `completion` is one; empty where the row has none.
        answer: the text with the numeric answer, or with the letter of a choice in the completion.
        messages: turns of a chat; empty for a plain row.
        template_options: further arguments of the chat template, such as `tools`.
        is_text: the prompt is no more than the first word of a text.
        where: file or split, and row, for messages.
    """

    prompt: str
    completion: str
    answer: str
    choices: tuple[str, ...] = ()
    messages: tuple[Message, ...] = ()
    template_options: Mapping[str, Any] = field(default_factory=dict)
    is_text: bool = False
    where: str = field(default="", compare=False)

    def with_completion(self, completion: str) -> Example:
        """Return the example with another completion, also of the last turn of a chat."""
        turns = [*self.messages[:-1], *(m._replace(content=completion) for m in self.messages[-1:])]
        return replace(self, completion=completion, messages=tuple(turns))


def fingerprint(examples: Iterable[Example]) -> str:
    """Return the sha256 of the texts of `examples`, in order."""
    digest = hashlib.sha256()
    for example in examples:
        turns = [
            (m.role, m.content) if m.is_learned and not m.extra else (*m[:2], dict(m.extra), m.is_learned)
            for m in example.messages
        ]
        row: list[Any] = [example.prompt, example.completion, example.answer, example.choices, turns]
        row += [example.template_options] if example.template_options else []
        digest.update(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def to_example(sub_dataset: SubDatasetConfig, row: Mapping[str, Any], where: str, form: Form | None = None) -> Example:
    """Return the example of a row of columns.

    Args:
        where: the row, for messages.
        form: of the rows, where the sub-dataset has no template.

    Raises:
        DataError: the row lacks the columns or texts that training needs.
    """
    if form is not None and form.convert is not None:
        row = _converted(sub_dataset.name, form.convert, row, where)
    template = sub_dataset.template or (form.template_config if form is not None else None)
    if template is not None:
        example = _from_template(sub_dataset.name, template, row, where)
    elif row.get("messages") is not None:
        example = _from_messages(sub_dataset.name, row, where)
    else:
        example = _from_columns(sub_dataset.name, row, where)
    try:
        turns = (message.text for message in example.messages)
        "".join((example.prompt, example.completion, example.answer, *example.choices, *turns)).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            sub_dataset.name,
            where,
            got=f"half of a surrogate pair: {str(error).split(':')[0]}",
            expected="text that UTF-8 can encode",
            fix="fix the row; a character was cut in two when it was written",
        ) from error
    return replace(example, where=where, is_text=form is not None and form.is_text)


def _converted(name: str, convert: Callable[[Row], Row], row: Row, where: str) -> Row:
    try:
        return convert(row)
    except ValueError as error:
        raise DataError(
            name, where, got=str(error), expected="a completion to learn from", fix="remove the row"
        ) from error


def _from_columns(name: str, row: Mapping[str, Any], where: str) -> Example:
    missing = [key for key in ("prompt", "completion") if not isinstance(row.get(key), str)]
    if missing:
        got = {key: type(value).__name__ for key, value in row.items()}
        raise DataError(
            name,
            where,
            column=", ".join(missing),
            got=f"the columns {got!r:.300}",
            expected=f"text in {' and '.join(missing)}",
            fix=nearest_form(row),
        )
    completion = row["completion"]
    return _checked(
        name, where, row["prompt"], completion, _answer_of(name, where, row, completion), row.get("choices")
    )


def _answer_of(name: str, where: str, row: Mapping[str, Any], completion: str) -> str:
    answer = row.get("answer")
    try:
        return text_of(answer) if answer is not None else completion.strip()
    except (TypeError, ValueError) as error:
        raise DataError(
            name, where, column="answer", got=str(error), expected="a text or a number", fix="fix the row"
        ) from error


def _from_template(name: str, template: TemplateConfig, row: Mapping[str, Any], where: str) -> Example:
    try:
        filled = fill_template(template, row)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError, OverflowError) as error:
        raise DataError(
            name,
            where,
            column=", ".join(getattr(error, "__notes__", ())),
            got=f"{type(error).__name__}: {error}; columns with a value: {_with_values(row)}",
            expected="a template that names columns of the row",
            fix="fix the sub-dataset's template",
        ) from error
    return _checked(name, where, filled.prompt, filled.completion, filled.answer, filled.choices)


def _with_values(row: Mapping[str, Any]) -> str:
    return ", ".join(column for column, value in row.items() if value is not None and value == value)


def _from_messages(name: str, row: Mapping[str, Any], where: str) -> Example:
    messages, options = read_chat(name, row, where)
    prompt = "\n".join(f"{message.role}: {message.text}" for message in messages[:-1])
    completion = messages[-1].content or messages[-1].text
    answer = _answer_of(name, where, row, completion)
    example = _checked(name, where, prompt, completion, answer, row.get("choices"))
    return replace(example, messages=messages, template_options=options)


def _checked(name: str, where: str, prompt: str, completion: str, answer: str, choices: Any) -> Example:
    """Return the example after checking its texts; choices become full completions, of which the completion is one."""
    for column, text, so in (("completion", completion, ", so every label is masked"), ("answer", answer, "")):
        if not text.strip():
            raise DataError(
                name,
                where,
                column=column,
                got=f"an empty {column}{so}",
                expected="text to learn from",
                fix="remove the row, or fill its column",
            )
    if choices is None:
        return Example(prompt, completion, answer)
    choices = opened(choices)
    texts = [text_of(choice) for choice in choices] if _are_choices(choices) else []
    lead, _, rest = completion.rpartition(answer)
    if completion not in texts and answer in texts and not rest.strip():
        texts = [f"{lead}{text}{rest}" for text in texts]
    if texts.count(completion) != 1 or len(texts) < 2:
        raise DataError(
            name,
            where,
            column="choices",
            got=f"choices {choices!r:.120} with the answer {answer!r:.80}",
            expected="a list of two or more texts, the answer exactly once among them",
            fix="fix the row's choices, or set metric: exact_match and drop the column (or make it null)",
        )
    return Example(prompt, completion, answer, tuple(texts))


def _are_choices(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(choice, str | int) or (isinstance(choice, float) and math.isfinite(choice)) for choice in value
    )
