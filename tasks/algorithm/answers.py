"""Read the number out of an answer."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")


def number_in(text: str) -> Decimal | None:
    """Return the number after the last `####`, or else the last number of the text."""
    tail = text.rpartition("####")[2] if "####" in text else text
    found = _NUMBER.findall(tail)
    if not found:
        return None
    chosen = found[0] if "####" in text else found[-1]
    try:
        return Decimal(chosen.replace(",", "").replace("$", "")).normalize()
    except InvalidOperation:
        return None
