"""Recognize the shapes in which questions with options are kept, and write the template of each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from tasks.data.columns import LISTS, PROMPT_COLUMNS, Rows, Template, is_informative, is_text, texts_of, usable_columns

# Columns of one option each: `A`, `option_a`, `opa`, `choice1`, `sol1`, `ending0`. Not `text1` or `sentence_a`: those
# are texts to compare.
_SERIES = re.compile(
    r"(?P<stem>|options?|opt|op|choices?|answers?|ans|solution|sol|endings?|alternative|candidate|ending)[ _-]?"
    r"(?P<mark>[A-J]|[a-j]|\d)"
)
_WRONG = re.compile(r"(distractor|incorrect|wrong)([ _-]?(answer|option|choice))?[ _-]?(\d)", re.IGNORECASE)
_RIGHT = (
    *("answer", "answerkey", "answer_key", "correct", "correct_answer", "correct_option", "correct_choice", "label"),
    *("gold", "target", "cop", "answer_idx", "answer_index", "answer_id", "answer_letter", "output", "completion"),
    *("response", "solution"),
)
_STEMS = ("question_stem", "stem", "goal", "ctx", "activity", "para")
_LETTER = re.compile(r"(?P<before>\(?)(?P<letter>[A-Ja-j])(?P<after>[).]?)")
_SHUFFLED = {"right": "A", "shuffle": True}


@dataclass(frozen=True)
class _Options:
    """Where the options of every row stand: `given` is the `texts` of a template, `texts` has those of the sample."""

    given: str | list[str]
    texts: list[list[str]]
    columns: tuple[str, ...]
    labels: str | list[str] | None = None
    names: tuple[list[str], ...] = ()  # by which an answer may pick an option, in each row of the sample

    @property
    def most(self) -> int:
        return max(len(texts) for texts in self.texts)


def options_template(sample: Rows) -> tuple[Template, str] | None:
    """Return the template of rows with a question, options and the right one, and what to check of it.

    Returns None where the rows have no options, or where no column tells the right one.
    """
    for options in _shapes(sample):
        for column in _right_columns(sample):
            if column not in options.columns and (found := _by_answer(sample, options, column)):
                template, remark = found
                prompt = _asked(sample, {column, *options.columns})
                lines = "\n{options}" if "options" in template else ""
                return {"prompt": f"{prompt}{lines}\nAnswer:", **template}, remark
    return _marked(sample) or _with_distractors(sample)


def _marked(sample: Rows) -> tuple[Template, str] | None:
    """Return the template of options in one column with a list of marks, 1 for the right one (TruthfulQA's mc1)."""
    for name in sample[0]:
        values = [row.get(name) for row in sample]
        if all(isinstance(value, dict) and _is_marked(value) for value in values):
            texts = {"texts": f"{name}[choices]", "labels": f"{name}[labels]", "right": "1", "shuffle": True}
            prompt = f"{_asked(sample, {name})}\n{{options}}\nAnswer:"
            return {"prompt": prompt, "completion": " {letter}", "options": texts}, "the wording of the template"
    return None


def _is_marked(value: dict[str, Any]) -> bool:
    texts, marks = value.get("choices"), value.get("labels")
    if not (isinstance(texts, list) and isinstance(marks, list) and len(texts) == len(marks) > 1):
        return False
    return marks.count(1) == 1 and marks.count(0) == len(marks) - 1


def _shapes(sample: Rows) -> Iterator[_Options]:
    for name in (name for name in sample[0] if name.lower() in LISTS):
        values = [row.get(name) for row in sample]
        if all(isinstance(value, list) for value in values):
            texts = [texts_of(value) for value in values if isinstance(value, list)]
            whole = [one for one in texts if one and len(one) > 1]
            if len(whole) == len(sample):
                yield _Options(name, whole, (name,))
        elif all(isinstance(value, dict) for value in values):
            yield from _nested(name, [value for value in values if isinstance(value, dict)])
    usable = usable_columns(sample)
    series: dict[str, list[tuple[str, str]]] = {}
    for name in usable:
        if (match := _SERIES.fullmatch(name)) or (match := _SERIES.fullmatch(name.lower())):
            series.setdefault(match["stem"], []).append((match["mark"], name))
    for marks in series.values():
        ordered = sorted(marks)
        in_order = "".join(mark for mark, _ in ordered).upper()
        if len(ordered) > 1 and any(
            in_order == run[: len(in_order)] for run in (ascii_uppercase, "0123456789", "123456789")
        ):
            names = tuple(name for _, name in ordered)
            yield _Options(
                [f"{{{name}}}" for name in names], [texts_of([row[n] for n in names]) or [] for row in sample], names
            )


def _nested(name: str, values: Sequence[dict[str, Any]]) -> Iterator[_Options]:
    """Yield options in a column of columns: lists `text` and `label`, or one text a letter."""
    texts = [texts_of(value["text"]) for value in values if isinstance(value.get("text"), list)]
    whole = [one for one in texts if one]
    if len(whole) == len(values) and all(isinstance(value.get("label"), list) for value in values):
        labels = tuple([str(label) for label in value["label"]] for value in values)
        yield _Options(f"{name}[text]", whole, (name,), f"{name}[label]", labels)
    keys = list(values[0])
    lettered = [texts_of(list(value.values())) for value in values if list(value) == keys]
    whole = [one for one in lettered if one and len(one) > 1]
    if len(whole) == len(values) and all(len(key) == 1 for key in keys):
        yield _Options([f"{{{name}[{key}]}}" for key in keys], whole, (name,), keys, (keys,) * len(values))


def _right_columns(sample: Rows) -> list[str]:
    actual = {name.lower().replace(" ", "_"): name for name in reversed(list(sample[0]))}
    named = [actual[name] for name in _RIGHT if name in actual]
    return [name for name in named if texts_of([row.get(name) for row in sample]) is not None]


def _by_answer(sample: Rows, options: _Options, column: str) -> tuple[Template, str] | None:
    """Return the template by what the answers are: labels, letters, columns, texts, or numbers of the options."""
    answers = texts_of([row[column] for row in sample]) or []
    are_numbers = all(isinstance(row[column], int) for row in sample)
    right = f"{{{column}}}"
    lettered = {"completion": " {letter}", "options": {"texts": options.given, "right": right}}
    to_check = "the wording of the template"
    if options.labels is not None and all(a in names for a, names in zip(answers, options.names, strict=True)):
        return _labelled(lettered, options.labels), to_check
    if isinstance(options.labels, str):
        return None
    is_text = all(answer in texts for answer, texts in zip(answers, options.texts, strict=True))
    as_text: tuple[Template, str] = {"completion": f" {right}", "choices": options.given}, to_check
    if are_numbers:  # of options, unless they cannot be
        return _indexed(lettered, options, answers) or (as_text if is_text else None)
    if is_text:
        return as_text
    if labels := _letters(answers, options.most):
        is_plain = labels == list(ascii_uppercase[: options.most])
        return lettered if is_plain else _labelled(lettered, labels), to_check
    if set(answers) <= set(options.columns):
        return _labelled(lettered, list(options.columns)), to_check
    return _indexed(lettered, options, answers)


def _indexed(lettered: Template, options: _Options, answers: Sequence[str]) -> tuple[Template, str] | None:
    """Return the template of answers that are numbers of options: from 0, unless one says otherwise."""
    if not all(answer.isdigit() for answer in answers):
        return None
    counts = [len(texts) for texts in options.texts]
    numbers = [int(answer) for answer in answers]
    fits = {first: all(0 <= n - first < count for n, count in zip(numbers, counts, strict=True)) for first in (0, 1)}
    if not any(fits.values()):
        return None
    first = 0 if fits[0] else 1
    marks = [name[-1] for name in options.columns]
    if fits[0] and fits[1] and len(options.columns) > 1 and marks[0] == "1":
        first = 1  # option1, option2 …
    remark = f"that the options count from {first}" if fits[0] and fits[1] else "the wording of the template"
    most = options.most if len(set(counts)) == 1 else 26
    template = _labelled(lettered, [str(first + index) for index in range(most)])
    if all(len(set(texts)) == len(texts) for texts in options.texts):
        template["completion"] = " {option}"  # a number says nothing of the option; its text does
    return template, remark


def _labelled(template: Template, labels: str | list[str]) -> Template:
    return {**template, "options": {**template["options"], "labels": labels}}


def _letters(answers: Sequence[str], count: int) -> list[str] | None:
    """Return the options' letters as the answers spell them: `B`, `b`, `(B)` or `B.`."""
    matches = [_LETTER.fullmatch(answer.strip()) for answer in answers]
    found = [match for match in matches if match]
    spellings = {(match["before"], match["letter"].isupper(), match["after"]) for match in found}
    if len(found) < len(answers) or len(spellings) != 1:
        return None
    before, is_upper, after = spellings.pop()
    letters = ascii_uppercase[:count] if is_upper else ascii_uppercase[:count].lower()
    return [f"{before}{letter}{after}" for letter in letters]


def _with_distractors(sample: Rows) -> tuple[Template, str] | None:
    """Return the template of rows whose right answer has a column of its own, apart from the wrong ones."""
    usable = usable_columns(sample)
    wrong = [name for name in usable if _WRONG.fullmatch(name)]
    right = next((name for name in _right_columns(sample) if name in usable), "")
    if not wrong or not right:
        return None
    texts = [f"{{{name}}}" for name in (right, *sorted(wrong))]
    prompt = _asked(sample, {right, *wrong})
    template = {"completion": " {letter}", "options": {"texts": texts, **_SHUFFLED}}
    return {"prompt": f"{prompt}\n{{options}}\nAnswer:", **template}, "the wording of the template"


def _asked(sample: Rows, others: set[str]) -> str:
    """Return the lines of the question: columns of known names, or else the longest text."""
    usable = [name for name in usable_columns(sample) if name not in others]
    telling = [name for name in usable if is_informative(name, sample)] or usable
    known = {name.lower(): name for name in reversed(telling)}
    named = [known[name] for name in (*_STEMS, *PROMPT_COLUMNS) if name in known]
    texts = [name for name in telling if all(is_text(row[name]) for row in sample)] or telling
    longest = sorted(texts, key=lambda name: -sum(len(str(row[name])) for row in sample))[:1]
    return "\n".join(f"{{{name}}}" for name in named or longest)
