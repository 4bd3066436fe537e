"""Publish files and folders: each appears under its name whole and synced to the disk, or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tasks.errors import NoDiskSpaceError

_BLOCK = 1 << 22
# Network mounts that cannot sync a directory.
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP)


def write_file(path: Path, content: str | bytes, what: str = "a small file", *, is_synced: bool = True) -> None:
    """Write a file whole; see `publish_file`."""
    raw = content.encode() if isinstance(content, str) else content
    publish_file(path, lambda staging: staging.write_bytes(raw), what, len(raw), is_synced=is_synced)


def publish_file(
    path: Path,
    write: Callable[[Path], object],
    what: str = "a file",
    num_bytes: int | None = None,
    *,
    keeps_older: bool = False,
    is_synced: bool = True,
) -> None:
    """Let `write` fill a staging file beside `path`, sync it, and move it into place; create missing parents.

    Args:
        write: fills the file it is given, whose name has the suffix of `path`.
        what, num_bytes: name and size for the message of a full disk.
        keeps_older: a file that is there already stays as it is; by default it is replaced.
        is_synced: wait for the disk; without, a power loss may leave the file empty.
    Raises:
        NoDiskSpaceError: the file does not fit; nothing of it is left.
    """
    make_folder(path.parent)
    staging = path.with_name(f".{os.getpid()}-{path.name}")
    staging.unlink(missing_ok=True)
    try:
        write(staging)
        if is_synced:
            sync(staging)
        if keeps_older:
            with suppress(FileExistsError):
                os.link(staging, path)
        else:
            os.replace(staging, path)
    except BaseException as error:
        if is_out_of_space(error):
            raise no_room(path, what, num_bytes) from error
        raise
    finally:
        staging.unlink(missing_ok=True)
    if is_synced:
        sync(path.parent)


def publish_folder(folder: Path, write: Callable[[Path], object], what: str, num_bytes: int | None = None) -> None:
    """Let `write` fill a staging folder beside `folder`, sync it, and rename it into place.

    One process at a time publishes a folder of this name: the staging folder that a killed one left is removed. An
    older folder is renamed before it is removed, so that a half-removed one never has its name.

    Args:
        what: as `publish_file`.
        num_bytes: about what the folder needs; refused up front where the disk has less.
    Raises:
        NoDiskSpaceError: the folder does not fit; nothing of it is left.
    """
    make_folder(folder.parent)
    if num_bytes is not None and shutil.disk_usage(folder.parent).free < num_bytes:
        raise no_room(folder, what, num_bytes)
    staging, replaced = (folder.with_name(f".{word}-{folder.name}") for word in ("staging", "replaced"))
    for leftover in (staging, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    staging.mkdir()
    try:
        write(staging)
        _sync_tree(staging)
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        if is_out_of_space(error):
            raise no_room(folder, what, num_bytes) from error
        raise
    if folder.exists():
        os.rename(folder, replaced)
    os.rename(staging, folder)
    sync(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, each synced in the one above it."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in reversed(missing):
        sync(place.parent)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def hash_file(file: Path) -> str:
    """Return the sha256 of a file's content."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def no_room(path: Path, what: str, needed: int | None = None) -> NoDiskSpaceError:
    """Return the error of a disk on which `path` does not fit, with the room that there is now."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    return NoDiskSpaceError(str(path), needed, shutil.disk_usage(there).free, what)


def is_out_of_space(error: BaseException) -> bool:
    """Return whether an error is that of a full disk, or of a quota that is used up."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"(os error {errno.ENOSPC})" in str(error)  # safetensors raises its own class


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)
