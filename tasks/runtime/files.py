"""Publish a directory whole or not at all, and know later that it still is what was published."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tasks.algorithm.state import CheckpointKey
from tasks.errors import CheckpointDamagedError, NoDiskSpaceError

MANIFEST = "manifest.json"
_BLOCK = 1 << 22


def publish(directory: Path, write: Callable[[Path], None], meta: Mapping[str, Any], num_bytes: int) -> None:
    """Write files beside `directory`, list them with sizes and hashes, and rename them into place.

    The name of the staging directory marks them as unfinished before the first byte is written.

    Args:
        write: fills the staging directory it is given.
        meta: what the manifest says beside the files.
        num_bytes: about what the files need; refused up front where the disk has less.
    Raises:
        NoDiskSpaceError: the files do not fit; nothing of them is left.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(directory.parent).free
    if free < num_bytes:
        raise NoDiskSpaceError(str(directory), num_bytes, free)
    staging = directory.with_name(f".staging-{directory.name}")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        write(staging)
        files = {file.name: _describe(file) for file in sorted(staging.iterdir())}
        (staging / MANIFEST).write_text(json.dumps({**meta, "files": files}, indent=1))
        _sync(staging / MANIFEST)
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        if is_out_of_space(error):
            raise no_room(directory, "a checkpoint", num_bytes) from error
        raise
    os.rename(staging, directory)
    _sync(directory.parent)


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest; raise CheckpointDamagedError where there is none that can be read."""
    try:
        content: dict[str, Any] = json.loads((directory / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointDamagedError(str(directory), [f"{MANIFEST}: {error}"]) from error
    return content


def verify(directory: Path, only: str | None = None, *, by_size: bool = False) -> dict[str, Any]:
    """Return the manifest after comparing every file (or `only` this one) with it.

    Args:
        by_size: read no content; finds what a kill or a full disk leaves, and no flipped bit.
    Raises:
        CheckpointDamagedError: a file is missing, has another size or another hash; names each.
    """
    manifest = read_manifest(directory)
    problems = []
    for name, wanted in manifest["files"].items():
        if only not in (None, name):
            continue
        file = directory / name
        if not file.is_file():
            problems.append(f"{name}: missing")
        elif file.stat().st_size != wanted["bytes"]:
            problems.append(f"{name}: got {file.stat().st_size} bytes, wanted {wanted['bytes']}")
        elif not by_size and hash_file(file) != wanted["sha256"]:
            problems.append(f"{name}: content differs from its sha256")
    if problems:
        raise CheckpointDamagedError(str(directory), problems)
    return manifest


def set_aside(directory: Path) -> None:
    """Take a damaged checkpoint out of the way, for whoever wants to look at it; an older one gives way."""
    aside = directory.with_name(f"damaged-{directory.name}")
    shutil.rmtree(aside, ignore_errors=True)
    if directory.exists():
        directory.rename(aside)


def hash_file(file: Path) -> str:
    """Return the sha256 of a file's content."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def checkpoint_directory(output: Path, step: int) -> Path:
    """Return where a roll-out publishes the checkpoint of `step`."""
    return output / "checkpoints" / f"step-{step:08d}"


def score_file_of(key: CheckpointKey) -> str:
    """Return the name of the file that holds a checkpoint's scores."""
    return f"round-{key.round:03d}-step-{key.step:08d}.json"


def write_json(path: Path, content: str) -> None:
    """Write a small file whole or not at all.

    Raises:
        NoDiskSpaceError: it does not fit; nothing of it is left.
    """
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        staging.write_text(content)
        _sync(staging)
        staging.replace(path)
    except OSError as error:
        staging.unlink(missing_ok=True)
        if is_out_of_space(error):
            raise no_room(path, "a small file", len(content.encode())) from error
        raise


def no_room(path: Path, what: str, needed: int | None = None) -> NoDiskSpaceError:
    """Return the error of a disk on which `path` does not fit, with the room that there is now."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    return NoDiskSpaceError(str(path), needed, shutil.disk_usage(there).free, what)


def is_out_of_space(error: BaseException) -> bool:
    """Say whether an error is that of a full disk, or of a quota that is used up."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"(os error {errno.ENOSPC})" in str(error)  # safetensors raises its own class


def _describe(file: Path) -> dict[str, Any]:
    _sync(file)
    return {"bytes": file.stat().st_size, "sha256": hash_file(file)}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
