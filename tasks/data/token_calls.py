"""Run many rows side by side, so that the texts which they ask the tokenizer for at one time are one call of it."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, TypeVar

from jinja2 import TemplateError

from tasks.runtime.spans import span

# What a row may raise, the tokenizer's and the chat template's own errors included.
UNUSABLE = (ValueError, TypeError, NotImplementedError, TemplateError)

Result = TypeVar("Result")
# The work on a row: it yields texts, is sent the ids of each, and returns its result.
Asking = Generator[Sequence[str], list[list[int]], Result]


def run_together(tokenizer: Any, rows: Sequence[Asking[Result]]) -> list[Result | Exception]:
    """Return the result of each row, or the error of `UNUSABLE` that it raises.

    The tokenizer is called as often as the row with the most requests asks, and once for each distinct text.
    """
    known: dict[str, list[int]] = {}
    results: dict[int, Result | Exception] = {}
    answers: Mapping[int, Any] = dict.fromkeys(range(len(rows)))  # None starts a generator
    while answers:
        asked = {}
        for index, answer in answers.items():
            try:
                row = rows[index]
                asked[index] = row.throw(answer) if isinstance(answer, Exception) else row.send(answer)
            except StopIteration as end:
                results[index] = end.value
            except UNUSABLE as error:
                results[index] = error
        answers = _answer(tokenizer, known, asked)
    return [results[index] for index in range(len(rows))]


def result_of(tokenizer: Any, row: Asking[Result]) -> Result:
    """Return the result of a single row, or raise its error."""
    (result,) = run_together(tokenizer, [row])
    if isinstance(result, Exception):
        raise result
    return result


def _answer(tokenizer: Any, known: dict[str, list[int]], asked: Mapping[int, Sequence[str]]) -> dict[int, Any]:
    """Return the ids of the texts that each row asks for, or the error that they raise."""
    new = list(dict.fromkeys(text for texts in asked.values() for text in texts if text not in known))
    try:
        if new:
            with span("tokenizer call"):
                encoded = tokenizer(new, add_special_tokens=False, return_attention_mask=False, verbose=False)
            known.update(zip(new, encoded["input_ids"], strict=True))
    except UNUSABLE as error:
        if len(asked) == 1:
            return dict.fromkeys(asked, error)
        return {index: ids for one in asked.items() for index, ids in _answer(tokenizer, known, dict([one])).items()}
    return {index: [known[text] for text in texts] for index, texts in asked.items()}
