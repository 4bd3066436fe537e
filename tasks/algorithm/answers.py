"""Parse the number in an answer."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")
_MARKED = re.compile(rf"####\s*({_NUMBER.pattern})")


def number_in(text: str) -> Decimal | None:
    """Return the first number that directly follows a `####`; else the first after the last `####`; else the last one.

    The first `####` counts, because a model that does not stop there invents further questions and answers.
    """
    marked = _MARKED.search(text)
    found = [marked[1]] if marked else _NUMBER.findall(text.rpartition("####")[2])
    if not found:
        return None
    chosen = found[0] if "####" in text else found[-1]
    try:
        return Decimal(chosen.replace(",", "").replace("$", "")).normalize()
    except InvalidOperation:
        return None
