"""Read the rows of data files, each value as it stands in the file, with no type inferred from other rows."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from tasks.data.values import parse_json
from tasks.errors import DataError

_EXPECTED = "one row a line, or a list of rows, each with a value for every column"
_COMPRESSIONS = (".gz", ".zst")
# A row and its line (or item) in the file; in place of a row that cannot be read, what is wrong with it.
Located = tuple[str, "dict[str, Any] | ValueError"]


class Row(dict[str, Any]):
    """The columns of a row, and its place for messages."""

    where = ""


def read_rows(name: str, files: Sequence[Path]) -> Iterator[Row]:
    """Yield the rows of one file, or of the shards of one split.

    The loaders of `datasets` are not used: the one for JSON lines ends the process at a line `null`, and they infer a
    column's type from other rows (`007` becomes 7, `None` in a CSV becomes null, mixed types are an error).

    Args:
        name: the sub-dataset, for messages.

    Raises:
        DataError: the format is unknown, a file cannot be read to its end, or a line is no row.
    """
    for row in read_each_row(name, files):
        if isinstance(row, DataError):
            raise row
        yield row


def read_each_row(name: str, files: Sequence[Path]) -> Iterator[Row | DataError]:
    """Yield the same, with a DataError in place of each line that is no row, so that all can be told at once."""
    for file in files:
        ending = format_of(file.name)
        if ending is None:
            raise DataError(
                name,
                str(file),
                got=f"the ending {file.suffix or 'none'}",
                expected=FORMATS_IN_WORDS,
                fix="convert the file, or rename it",
            )
        yield from _located_rows(name, file, FORMATS[ending](file))


def _located_rows(name: str, file: Path, rows: Iterator[Located]) -> Iterator[Row | DataError]:
    index = 0
    while True:
        try:
            located = next(rows, None)
        except (OSError, ValueError, RecursionError, EOFError, csv.Error) as error:
            raise _unreadable(name, str(file), error) from error
        if located is None:
            return
        place, content = located
        if isinstance(content, ValueError):
            yield _unreadable(name, f"{file} row {index}, {place}", ValueError(f"{place}{content}"))
        else:
            row = Row(content)
            row.where = f"{file} row {index}" + (f", {place}" if place.startswith("line") else "")
            yield row
        index += 1


def _unreadable(name: str, where: str, error: Exception) -> DataError:
    is_encoding = isinstance(error, UnicodeDecodeError)
    return DataError(
        name,
        where,
        got=" ".join(str(error).split())[:300] or type(error).__name__,
        expected="UTF-8 text" if is_encoding else f"readable data: {_EXPECTED}",
        fix="convert the file to UTF-8" if is_encoding else "fix the file, or convert it to .jsonl",
    )


def format_of(file_name: str) -> str | None:
    """Return the format of a file by its ending, such as `.jsonl` for `a.jsonl.gz`; None if it is unknown."""
    ending = file_name[len(stem_of(file_name)) :].lower()
    return next((known for known in FORMATS if ending.startswith(known)), None)


def stem_of(file_name: str) -> str:
    """Return the name of a data file without its ending; the whole name where the ending is unknown."""
    packed = next((end for end in _COMPRESSIONS if file_name.lower().endswith(end)), "")
    bare = file_name[: len(file_name) - len(packed)]
    path = Path(bare)
    ending = path.suffix.lower()
    is_known = ending in FORMATS and not (packed and ending == ".parquet")  # it is compressed inside
    return path.name[: -len(ending)] if is_known else file_name


def _open_text(file: Path, newline: str | None = None) -> IO[str]:
    """Open a text file, unpacked by the ending of its name."""
    import io

    ending = file.suffix.lower()
    if ending == ".gz":
        import gzip

        return gzip.open(file, "rt", encoding="utf-8-sig", newline=newline)
    if ending == ".zst":
        import pyarrow

        unpacked = pyarrow.CompressedInputStream(pyarrow.OSFile(str(file)), "zstd")
        return io.TextIOWrapper(unpacked, encoding="utf-8-sig", newline=newline)
    return file.open(encoding="utf-8-sig", newline=newline)


def _json_lines(file: Path) -> Iterator[Located]:
    with _open_text(file) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _located(f"line {number}", line)


def _json(file: Path) -> Iterator[Located]:
    """Yield the items of a list; a file without one is read as JSON lines, which are sometimes named .json."""
    with _open_text(file) as whole:
        text = whole.read()
    if not text.lstrip().startswith("["):
        yield from _json_lines(file)
        return
    try:
        items = parse_json(text)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    for index, item in enumerate(items):
        yield _as_row(f"item {index}", item)


def _located(place: str, line: str) -> Located:
    try:
        return _as_row(place, parse_json(line))
    except ValueError as error:  # its own line number is relative to the line
        return place, ValueError(f": not JSON: {error}")


def _as_row(place: str, value: Any) -> Located:
    return place, value if isinstance(value, dict) else ValueError(f" is no object of columns: {value!r:.80}")


def _csv(file: Path) -> Iterator[Located]:
    """Yield the rows below the header with every cell as text; an empty cell is None."""
    csv.field_size_limit(sys.maxsize)  # the default limit of a cell is 128 KiB
    delimiter = "\t" if format_of(file.name) == ".tsv" else ","
    with _open_text(file, newline="") as lines:
        reader = csv.reader(lines, strict=True, delimiter=delimiter)
        header = next((cells for cells in reader if cells), [])
        if len(set(header)) < len(header):
            raise ValueError(f"two columns of one name in the header: {', '.join(header)}")
        for cells in reader:
            place = f"line {reader.line_num}"
            if cells and len(cells) != len(header):
                yield place, ValueError(f" has {len(cells)} cells, the header has {len(header)}")
            elif cells:
                yield place, {column: cell or None for column, cell in zip(header, cells, strict=True)}


def _parquet(file: Path) -> Iterator[Located]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(file) as parquet:
            for batch in parquet.iter_batches():
                yield from (("", row) for row in batch.to_pylist())
    except (pyarrow.ArrowException, ArithmeticError) as error:  # a date or decimal beyond the range of Python's types
        raise ValueError(str(error)) from error


FORMATS: Mapping[str, Callable[[Path], Iterator[Located]]] = MappingProxyType(
    {".jsonl": _json_lines, ".json": _json, ".csv": _csv, ".parquet": _parquet, ".tsv": _csv}
)
_PACKED = ", ".join(f".jsonl{end}" for end in _COMPRESSIONS)
FORMATS_IN_WORDS = f"{', '.join(FORMATS)}; text may be compressed, as {_PACKED}"
