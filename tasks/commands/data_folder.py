"""Recognise the sub-datasets and splits in a folder of data files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.data.files import FORMATS
from tasks.errors import InitError

# What people call the three splits.
_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "testing", "heldout"),
}
_SPLIT_OF = {word: split for split, words in _WORDS.items() for word in words}
_SUFFIX = re.compile(rf"(?P<name>.+?)[._-](?P<word>{'|'.join(_SPLIT_OF)})$", re.IGNORECASE)


@dataclass(frozen=True)
class FoundData:
    """One sub-dataset in a folder: its splits' files; `train` is always among them."""

    name: str
    files: Mapping[str, Path]


def find_data(folder: Path) -> list[FoundData]:
    """Return the sub-datasets of a folder in the order of their names.

    One for each sub-folder with data files, one for each file, or one for each group of files named
    `NAME_train`, `NAME_validation`, `NAME_test`; a folder of split files alone is one.

    Raises:
        InitError: there is no data file, or a sub-dataset has no training rows.
    """
    if not folder.is_dir():
        got = "a file" if folder.exists() else "no such folder"
        raise InitError(
            f"folder {folder}",
            got=got,
            wanted="a folder of data files",
            fix="msft init FOLDER, with your data's",
        )
    found = list(_grouped(folder.resolve().name, _data_files(folder)))
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            found += _grouped(path.name, _data_files(path), inside=path.name)
    if not found:
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:12]) or "nothing"
        raise InitError(
            f"folder {folder}",
            got=f"no data file in it or its sub-folders; there is {there}",
            wanted=f"files with the endings {', '.join(FORMATS)}",
            fix="convert the data to JSON lines, one row a line, and run the same command again",
        )
    for data in found:
        _require_train(folder, data)
    return _with_safe_names(sorted(found, key=lambda data: data.name))


def _data_files(folder: Path) -> list[Path]:
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in FORMATS]
    return [path for path in files if path.is_file() and not path.name.startswith(".")]


def _grouped(folder_name: str, files: Sequence[Path], inside: str = "") -> Iterator[FoundData]:
    """Yield the sub-datasets that the files of one folder make up."""
    groups: dict[str, dict[str, Path]] = {}
    for file in files:
        stem = file.stem
        match = _SUFFIX.match(stem)
        if (split := _SPLIT_OF.get(stem.lower())) is not None:
            groups.setdefault("", {})[split] = file
        elif match is not None:
            groups.setdefault(match["name"], {})[_SPLIT_OF[match["word"].lower()]] = file
        else:
            groups.setdefault(stem, {})["train"] = file
    for name, splits in groups.items():
        alone = len(groups) == 1
        own = f"{inside}-{name}" if inside and not alone else inside or name
        yield FoundData(own if name else folder_name, splits)


def _require_train(folder: Path, data: FoundData) -> None:
    if "train" not in data.files:
        files = ", ".join(str(path.relative_to(folder)) for path in data.files.values())
        raise InitError(
            f"sub-dataset {data.name!r} in {folder}",
            got=f"{files}, and no file of training rows",
            wanted="a file called train (or NAME_train) beside them",
            fix="rename the file that holds the training rows, and run the same command again",
        )


def _with_safe_names(found: Sequence[FoundData]) -> list[FoundData]:
    """Give names that a configuration takes, each once."""
    taken: set[str] = set()
    safe = []
    for data in found:
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", data.name).lstrip("_.-")[:60] or "data"
        number = 2
        while name in taken:
            name, number = f"{name.removesuffix(f'_{number - 1}')}_{number}", number + 1
        taken.add(name)
        safe.append(FoundData(name, data.files))
    return safe
