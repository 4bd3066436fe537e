"""The answer of a model, and the number in an answer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Context, Decimal, DecimalException

_MINUS = dict.fromkeys(map(ord, "\u2010\u2011\u2212\u2013\ufe63\uff0d"), "-")
_SPACES = " \u00a0\u2009\u202f"
_GROUPS = re.compile(rf"(?<![\w.,:/])\d{{1,3}}(?:[{_SPACES}]\d{{3}})+(?!\d)")
_LEAD = r"(?:(?<![\w)\]])[-+])?(?:[$€£¥][-+]?)?"
_RAISED = "\u00bc-\u00be\u2150-\u215e\u00b2\u00b3\u00b9\u2070-\u2089"  # fractions and powers of one character
# A number, or several that mean something else together: a date, a time, a power, a version, a range, a list.
_BODY = rf"(?:(?<![\w.])\.)?\d(?:[\w.,:;/^*×·÷'’$€£¥%+-]*[\d{_RAISED}])?"
_SCALE = r"(?:[kKMB]|bn|mn)\b| (?:dozen|hundred|thousand|million|billion|trillion)\b"
_RUN = re.compile(rf"(?P<lead>{_LEAD})(?P<body>{_BODY})(?P<scale>{_SCALE})?")
_MARK = re.compile(rf"####\s*(?={_LEAD}\.?\d)")
_DECIMAL = re.compile(r"(?:\d{1,3}(?:,\d{2,3})*,\d{3}|\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?")
_FRACTION = re.compile(r"(?:(\d+)\+)?(\d+)/(\d+)")


@dataclass(frozen=True)
class Answer:
    """What a model answers to a row: the text that it generates, or the choice that is most likely.

    `loss` is that of the label, in nats per completion token, where it was measured beside the answer.
    """

    text: str
    is_correct: bool
    loss: float | None = None


def number_in(text: str) -> Decimal | None:
    """Return the first number that directly follows a `####`; else the first after the last `####`; else the last one.

    The first `####` counts, because a model that does not stop there invents further questions and answers. A number
    is written with digits: `-1,234.5`, `1 234`, `.5`, `1e3`, `3/4`, `1 1/2`; a currency before it and a unit after it
    do not count. Digits that mean something else together (a date, a time, a power, a range) are no number.
    """
    text = _plain(text)
    mark = _MARK.search(text)
    runs = list(_RUN.finditer(text, mark.end() if mark else max(0, text.rfind("####"))))
    return _value(runs[0 if "####" in text else -1]) if runs else None


def single_number_in(answer: str) -> Decimal | None:
    """Return the number of a label; None if it has none, more than one, or one that is a part of something else.

    Where the number follows a `####`, the rest of that line counts alone.
    """
    text = _plain(answer)
    mark = _MARK.search(text)
    text = text[mark.end() :].partition("\n")[0] if mark else text.rpartition("####")[2]
    runs = list(_RUN.finditer(text))
    if len(runs) != 1:
        return None
    before = text[: runs[0].start()]
    return None if before[-1:].isalpha() or before.rstrip().endswith(("-", "+")) else _value(runs[0])


def _plain(text: str) -> str:
    """Return the text with `-` for every minus, and without spaces within numbers: 1 234 → 1234, 1 1/2 → 1+1/2."""
    text = _GROUPS.sub(lambda found: re.sub(rf"[{_SPACES}]", "", found[0]), text.translate(_MINUS))
    text = re.sub(r"(?<=\d) ?[/\u2044] ?(?=\d)", "/", text)
    return re.sub(r"(?<![\w.,:/])(\d+) (?=\d+/\d)", r"\1+", text)


def _value(run: re.Match[str]) -> Decimal | None:
    """Return the number that a run of digits means, exactly; None if it is not one number."""
    body, lead = run["body"], run["lead"]
    if run["scale"] or run.string[: run.start()].endswith(("±", "√", "^")):
        return None
    try:
        if fraction := _FRACTION.fullmatch(body):
            whole, above, below = (Decimal(part or 0) for part in fraction.groups())
            precise = Context(prec=100)
            value = precise.add(whole, precise.divide(above, below))
        elif _DECIMAL.fullmatch(body):
            value = Decimal(body.replace(",", ""))
        else:
            return None
    except DecimalException:  # a division by zero, an exponent out of range
        return None
    return value.copy_negate() if "-" in lead else value
