"""The files of a split in a folder: one file, or all of its shards."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.data.files import FORMATS_IN_WORDS, format_of, stem_of
from tasks.errors import DataError

# `train-00000-of-00002`, with a hash where the hub adds one; `train-0` of exports that do not know the total.
_SHARD = re.compile(r"(?P<base>.+?)[-_.](?P<index>\d{1,6})(-of-(?P<total>\d{1,6}))?(-[0-9a-f]{8,})?$")


@dataclass(frozen=True)
class Shard:
    """One of the files that a split is cut into; `total` is None where the name does not tell it."""

    base: str
    index: int
    total: int | None


def shard_of(file_name: str) -> Shard | None:
    """Return what the name of a data file says of its place in a split; None where it is no shard."""
    match = _SHARD.fullmatch(stem_of(file_name))
    if match is None:
        return None
    return Shard(match["base"], int(match["index"]), int(match["total"]) if match["total"] else None)


def data_files(folder: Path) -> list[Path]:
    """Return the data files of a folder, without hidden ones, by name."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    return [path for path in files if format_of(path.name) is not None]


def split_files(name: str, path: Path, split: str, wanted: str) -> list[Path]:
    """Return the files of a split: `path` itself, or those of the name `wanted` in the folder.

    Args:
        name: the sub-dataset, for messages.

    Raises:
        DataError: there is none, there are two of one name, or a shard is missing.
    """
    if path.is_file():
        if split == "train":
            return [path]
        path = path.parent
    if not path.is_dir():
        raise DataError(
            name,
            f"path {path}",
            got="no such file or folder",
            expected="a data file or a folder of them",
            fix=f"fix mixture.sub_datasets.{name}.path (paths are relative to the YAML file)",
        )
    if (path / wanted).is_file():
        return [path / wanted]
    same = [[file] for file in data_files(path) if stem_of(file.name) == wanted]
    shards = [file for file in data_files(path) if (one := shard_of(file.name)) is not None and one.base == wanted]
    inside = data_files(path / wanted) if (path / wanted).is_dir() else []
    found = [*same, *(group for group in (shards, inside) if group)]
    if len(found) > 1:
        raise DataError(
            name,
            f"split {split} in {path}",
            got=f"{', '.join(str(group[0].relative_to(path)) for group in found)}, each of which could be {wanted}",
            expected=f"one file, or the shards of one, for {wanted}",
            fix=f"remove those that are not meant, or name one with its ending in splits.{split}",
        )
    if not found:
        raise _missing(name, path, split, wanted)
    check_shards(name, path, shards)
    return sorted(found[0], key=lambda file: (shard.index if (shard := shard_of(file.name)) else 0, file.name))


def check_shards(name: str, path: Path, files: Sequence[Path]) -> None:
    """Raise a DataError where a shard of a split is missing, or stands twice."""
    shards = [shard for file in files if (shard := shard_of(file.name))]
    totals = {shard.total for shard in shards}
    indices = sorted(shard.index for shard in shards)
    known = max((total for total in totals if total is not None), default=len(indices))
    is_whole = indices in (list(range(known)), list(range(1, known + 1))) or totals == {None}
    if len(totals) > 1 or len(set(indices)) < len(indices) or not is_whole:
        raise DataError(
            name,
            f"shards in {path}",
            got=", ".join(file.name for file in files)[:300],
            expected=f"{known} shards of one split, each once",
            fix="download those that are missing, and remove those of another split or an earlier export",
        )


def _missing(name: str, path: Path, split: str, wanted: str) -> DataError:
    there = ", ".join(sorted(file.name for file in path.iterdir())) or "nothing"
    return DataError(
        name,
        f"split {split} in {path}",
        got=f"no file {wanted}.*; the folder contains {there}",
        expected=f"{wanted} with one of the endings {FORMATS_IN_WORDS}",
        fix=f"name the file in splits.{split}"
        + (f", or carve it from train with splits: {{{split}: {{carve: 200}}}}" if split != "train" else "")
        + ("; test: null where there is none" if split == "test" else ""),
    )
