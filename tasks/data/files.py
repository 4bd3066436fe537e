"""Read the rows of a data file without inferring the type of a value from other rows."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tasks.errors import DataError

_EXPECTED = "one row a line, or a list of rows, each with a value for every column"


def open_file(name: str, file: Path) -> Iterable[Mapping[str, Any]]:
    """Return the rows of a file as a streaming dataset of `datasets`, as for rows from the hub.

    The file loaders of `datasets` are not used: the one for JSON lines ends the process at a line `null`, and they
    infer a column's type from other rows (`007` becomes 7, `None` in a CSV becomes null, mixed types are an error).

    Raises:
        DataError: while the rows are read; see `read_rows`.
    """
    import datasets

    rows: Iterable[Mapping[str, Any]] = datasets.IterableDataset.from_generator(
        read_rows, gen_kwargs={"name": name, "file": file}
    )
    return rows


def read_rows(name: str, file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file, each as a mapping of its columns.

    Args:
        name: the sub-dataset, for messages.

    Raises:
        DataError: the format is unknown, or the file cannot be read to its end.
    """
    reader = FORMATS.get(file.suffix.lower())
    if reader is None:
        raise DataError(
            name,
            str(file),
            got=f"the ending {file.suffix or 'none'}",
            expected=", ".join(FORMATS),
            fix="convert the file (unpack it first), or rename it",
        )
    rows = reader(file)
    while True:
        try:
            row = next(rows, None)
        except (OSError, ValueError, RecursionError, csv.Error) as error:
            raise _unreadable(name, file, error) from error
        if row is None:
            return
        yield row


def _unreadable(name: str, file: Path, error: Exception) -> DataError:
    is_encoding = isinstance(error, UnicodeDecodeError)
    return DataError(
        name,
        str(file),
        got=" ".join(str(error).split())[:300],
        expected="UTF-8 text" if is_encoding else f"readable {file.suffix.lower()}: {_EXPECTED}",
        fix="convert the file to UTF-8" if is_encoding else "fix the file, or convert it to .jsonl",
    )


def _json_lines(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _as_row(_parse(line, f"line {number}: "), f"line {number}")


def _json(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the items of a list; a file without one is read as JSON lines, which are sometimes named .json."""
    text = file.read_text(encoding="utf-8-sig")
    if not text.lstrip().startswith("["):
        yield from _json_lines(file)
        return
    for index, row in enumerate(_parse(text, "")):
        yield _as_row(row, f"item {index}")


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:  # its line number is relative to `text`
        raise ValueError(f"{where}not JSON: {error}") from None


def _as_row(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is no object of columns: {value!r:.80}")
    return value


def _csv(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows below the header with every cell as text; an empty cell is None."""
    csv.field_size_limit(sys.maxsize)  # the default limit of a cell is 128 KiB
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, strict=True)
        header = next((cells for cells in reader if cells), [])
        if len(set(header)) < len(header):
            raise ValueError(f"two columns of one name in the header: {', '.join(header)}")
        for cells in reader:
            if cells and len(cells) != len(header):
                raise ValueError(f"line {reader.line_num} has {len(cells)} cells, the header has {len(header)}")
            if cells:
                yield {column: cell or None for column, cell in zip(header, cells, strict=True)}


def _parquet(file: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(file) as parquet:
            for batch in parquet.iter_batches():
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, ArithmeticError) as error:  # a date or decimal beyond the range of Python's types
        raise ValueError(str(error)) from error


FORMATS: Mapping[str, Callable[[Path], Iterator[dict[str, Any]]]] = MappingProxyType(
    {".jsonl": _json_lines, ".json": _json, ".csv": _csv, ".parquet": _parquet}
)
