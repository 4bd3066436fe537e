"""Write the rows of the user guide's tutorial, as an example of a folder for `msft init`."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from tasks.config.shipped import SHIPPED
from tasks.errors import InitError
from tasks.runtime.files import write_file

FOLDER = "my_data"
MODEL = str(SHIPPED / "data" / "quickstart_base")
# For a model of 368 thousand parameters; the file's own learning rate is for larger ones.
SETTINGS = "--set training.learning_rate=1.0e-3 --set training.threads=1"
_NUM_ROWS = 600


def write_rows(folder: str) -> None:
    """Write three JSONL files into a new or empty folder, the same ones each time.

    Raises:
        InitError: there are files in it already.
    """
    directory = Path(folder)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        got, fix = f"{folder}, which exists", f"name another: msft init OTHER --example, or read it: msft init {folder}"
        raise InitError(folder, got=got, expected="a new or empty folder for the example's rows", fix=fix)
    draw = random.Random(0)
    for name, rows in (("larger", _larger(draw)), ("reversed", _reversed(draw)), ("sums", _sums(draw))):
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
        write_file(directory / f"{name}.jsonl", text)


def _larger(draw: random.Random) -> Iterator[dict[str, Any]]:
    for a, b in _pairs(draw):
        choices = [str(a), str(b)]
        yield {"question": f"which is larger, {a} or {b}?", "choices": choices, "answer": str(max(a, b))}


def _reversed(draw: random.Random) -> Iterator[dict[str, Any]]:
    words = [a + b + c for a in ascii_lowercase for b in ascii_lowercase for c in ascii_lowercase]
    for word in draw.sample(words, _NUM_ROWS):
        yield {"prompt": f"reverse {word}:", "completion": f" {word[::-1]}"}


def _sums(draw: random.Random) -> Iterator[dict[str, Any]]:
    for a, b in _pairs(draw):
        yield {"question": f"what is {a} plus {b}?", "answer": str(a + b)}


def _pairs(draw: random.Random) -> list[tuple[int, int]]:
    """Return pairs of different two-digit numbers, each once."""
    return draw.sample([(a, b) for a in range(10, 100) for b in range(10, 100) if a != b], _NUM_ROWS)
