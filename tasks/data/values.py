"""Values of a row as the texts that stand in its file."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, TypeVar


class _Written:
    """A number that Python would write in another way, such as `-0`, `0.30`, `1e3` or one of 21 digits."""

    text: str

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        return super().__format__(spec) if spec else self.text


class _WrittenInt(_Written, int): ...


class _WrittenFloat(_Written, float): ...


_Number = TypeVar("_Number", _WrittenInt, _WrittenFloat)


def parse_json(text: str) -> Any:
    """Return the value of a JSON text, whose numbers keep their spelling.

    Raises:
        ValueError: it is not JSON, or an object has one key twice.
    """
    return json.loads(text, parse_int=_int, parse_float=_float, object_pairs_hook=_object)


def json_text(value: Any) -> str:
    """Return a value as JSON with sorted keys, its numbers spelled as they were read."""
    if isinstance(value, _Written):
        return value.text
    if isinstance(value, dict):
        items = (f"{json.dumps(key, ensure_ascii=False)}: {json_text(value[key])}" for key in sorted(value))
        return f"{{{', '.join(items)}}}"
    if isinstance(value, list):
        return f"[{', '.join(json_text(item) for item in value)}]"
    return json.dumps(value, ensure_ascii=False)


def opened(value: Any) -> Any:
    """Return the list or object that a text holds as JSON, as a cell of a CSV file does; another value as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return parse_json(value)
    except ValueError:
        return value


def text_of(value: Any) -> str:
    """Return the text of a value as it stands in its file: numbers by digits, truth values as in JSON.

    Raises:
        TypeError: the value is a list or an object, which have parts and no text.
        ValueError: it is infinite or not a number.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple | dict | bytes):
        kind = "an object" if isinstance(value, dict) else "bytes" if isinstance(value, bytes) else "a list"
        raise TypeError(f"{kind}, not a text: {value!r:.80}")
    if isinstance(value, float) and not isinstance(value, _Written) and not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    return str(value)


def _int(text: str) -> int:
    value = int(text)
    return value if str(value) == text else _written(_WrittenInt(value), text)


def _float(text: str) -> float:
    value = float(text)
    return value if repr(value) == text else _written(_WrittenFloat(value), text)


def _written(number: _Number, text: str) -> _Number:
    number.text = text
    return number


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return found
