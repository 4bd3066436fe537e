"""Read the rows of one data file as they stand, without guessing types from other rows."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tasks.errors import DataError

_WANTED = "one row a line, or a list of rows, each with a value for every column"


def open_file(name: str, file: Path) -> Iterable[Mapping[str, Any]]:
    """Return the rows of a file as a streaming `datasets` dataset, as the hub's are one.

    Not through its own loaders of files: that for JSON lines ends the process at a line `null`, and they take a
    column's type from other rows (`007` becomes 7, `None` in a CSV nothing, mixed types an error).

    Raises:
        DataError: on reading; see `read_rows`.
    """
    import datasets

    rows: Iterable[Mapping[str, Any]] = datasets.IterableDataset.from_generator(
        read_rows, gen_kwargs={"name": name, "file": file}
    )
    return rows


def read_rows(name: str, file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file, each with its columns; `name` is the sub-dataset's in an error.

    Raises:
        DataError: the ending is unknown, or the file cannot be read to its end.
    """
    reader = FORMATS.get(file.suffix.lower())
    if reader is None:
        raise DataError(
            name,
            str(file),
            got=f"the ending {file.suffix or 'none'}",
            wanted=", ".join(FORMATS),
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
        wanted="UTF-8 text" if is_encoding else f"readable {file.suffix.lower()}: {_WANTED}",
        fix="convert the file to UTF-8" if is_encoding else "mend the file, or convert it to .jsonl",
    )


def _json_lines(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _as_row(_parse(line, f"line {number}: "), f"line {number}")


def _json(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the items of one list; a file that holds none is read as lines, which some call .json too."""
    text = file.read_text(encoding="utf-8-sig")
    if not text.lstrip().startswith("["):
        yield from _json_lines(file)
        return
    for index, row in enumerate(_parse(text, "")):
        yield _as_row(row, f"item {index}")


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:  # its own lines count from this text's beginning
        raise ValueError(f"{where}not JSON: {error}") from None


def _as_row(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is no object of columns: {value!r:.80}")
    return value


def _csv(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows below the header, every cell as text; an empty cell is None, which CSV cannot tell from it."""
    csv.field_size_limit(sys.maxsize)  # a cell may hold a long text; the module's own limit is 128 KiB
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, strict=True)
        header = next((cells for cells in reader if cells), [])
        if len(set(header)) < len(header):
            raise ValueError(f"two columns of one name in the header: {', '.join(header)}")
        for cells in reader:
            if cells and len(cells) != len(header):
                raise ValueError(
                    f"line {reader.line_num} has {len(cells)} cells, the header has {len(header)}"
                )
            if cells:
                yield {column: cell or None for column, cell in zip(header, cells, strict=True)}


def _parquet(file: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(file) as parquet:
            for batch in parquet.iter_batches():
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, ArithmeticError) as error:  # a date or decimal that Python cannot hold
        raise ValueError(str(error)) from error


FORMATS: Mapping[str, Callable[[Path], Iterator[dict[str, Any]]]] = MappingProxyType(
    {".jsonl": _json_lines, ".json": _json, ".csv": _csv, ".parquet": _parquet}
)
