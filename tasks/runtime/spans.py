"""What the processes of a search spend their time on: lines of a file that `msft profile` reads.

Only where an environment variable names the file; a search by itself writes none.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

FILE = "MSFT_SPANS"


class Span(NamedTuple):
    """A stretch of one process's time, on the clock of the machine; `figures` are counts of what was done in it."""

    pid: int
    name: str
    began: float
    ended: float
    figures: dict[str, float]


@contextmanager
def span(name: str) -> Iterator[dict[str, float]]:
    """Record the block, or each call of a function decorated with it; yields the figures, which the block may fill."""
    figures: dict[str, float] = {}
    began = time.monotonic()
    try:
        yield figures
    finally:
        path = os.environ.get(FILE)
        if path is not None:
            line = json.dumps(Span(os.getpid(), name, began, time.monotonic(), figures))
            with open(path, "a") as file:  # one write of one line, which other processes do not cut
                file.write(f"{line}\n")


class Traced:
    """An object whose method calls are spans of one name."""

    def __init__(self, name: str, traced: Any) -> None:
        self._name, self._traced = name, traced

    def __getattr__(self, attribute: str) -> Any:
        """Return an attribute of the object; a method records its calls."""
        value = getattr(self._traced, attribute)
        return span(self._name)(value) if callable(value) else value


def traced(name: str, given: Any) -> Any:
    """Return the object, traced where spans are recorded."""
    return Traced(name, given) if FILE in os.environ else given


def read_spans(path: Path) -> list[Span]:
    """Return the spans of a file, in the order of their beginnings."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return sorted((Span(*json.loads(line)) for line in lines), key=lambda one: one.began)
