"""Read the number out of an answer."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")
_MARKED = re.compile(rf"####\s*({_NUMBER.pattern})")


def number_in(text: str) -> Decimal | None:
    """Return the number that directly follows a `####`; without one, that after the last `####`, or the text's last.

    The first such number counts: a model that does not end there goes on with questions and answers of its own.
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
