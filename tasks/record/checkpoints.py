"""Checkpoints on disk: publication, manifest, verification, and the training up to each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tasks.algorithm.state import CheckpointKey
from tasks.contracts import CheckpointRef, IntervalStats
from tasks.errors import CheckpointDamagedError
from tasks.runtime.files import hash_file, publish_folder

MANIFEST = "manifest.json"
TRAINER = "trainer_state.json"


def publish_with_manifest(
    directory: Path, write: Callable[[Path], None], meta: Mapping[str, Any], num_bytes: int
) -> None:
    """Publish the files that `write` creates with a manifest of their sizes and hashes.

    Args:
        write: fills the staging folder passed to it.
        meta: further entries of the manifest.
        num_bytes: approximate size of the files.
    Raises:
        NoDiskSpaceError: the files do not fit; none is left behind.
    """

    def write_all(staging: Path) -> None:
        write(staging)
        files = {file.name: describe_file(file) for file in sorted(staging.iterdir())}
        (staging / MANIFEST).write_text(json.dumps({**meta, "files": files}, indent=1))

    publish_folder(directory, write_all, "a checkpoint", num_bytes)


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest; raise CheckpointDamagedError if it cannot be read."""
    try:
        content: dict[str, Any] = json.loads((directory / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointDamagedError(str(directory), [f"{MANIFEST}: {error}"]) from error
    return content


def verify(directory: Path, only: str | None = None, *, by_size: bool = False) -> dict[str, Any]:
    """Return the manifest after comparing every file (or `only` this one) with it.

    Args:
        by_size: compare sizes only; detects kills and full disks, but no flipped bit.
    Raises:
        CheckpointDamagedError: files are missing or have another size or hash; lists each.
    """
    manifest = read_manifest(directory)
    problems = []
    for name, expected in manifest["files"].items():
        if only not in (None, name):
            continue
        file = directory / name
        if not file.is_file():
            problems.append(f"{name}: missing")
        elif file.stat().st_size != expected["bytes"]:
            problems.append(f"{name}: got {file.stat().st_size} bytes, expected {expected['bytes']}")
        elif not by_size and hash_file(file) != expected["sha256"]:
            problems.append(f"{name}: content differs from its sha256")
    if problems:
        raise CheckpointDamagedError(str(directory), problems)
    return manifest


def set_aside(directory: Path) -> None:
    """Rename a damaged checkpoint to `damaged-…` for inspection, replacing an older one."""
    aside = directory.with_name(f"damaged-{directory.name}")
    shutil.rmtree(aside, ignore_errors=True)
    if directory.exists():
        directory.rename(aside)


def reference_to(directory: Path, search_directory: Path) -> CheckpointRef:
    """Return the reference to a published checkpoint.

    Raises:
        CheckpointDamagedError: its manifest cannot be read.
    """
    manifest = read_manifest(directory)
    return CheckpointRef(
        key=CheckpointKey(manifest["round"], manifest["step"]),
        directory=str(directory.resolve().relative_to(search_directory.resolve())),
        sha256=hash_file(directory / MANIFEST),
        num_bytes=sum(file["bytes"] for file in manifest["files"].values()),
        cursors=manifest["cursors"],
        published_at_ms=manifest["published_at_ms"],
    )


def intervals_before(directory: Path) -> list[IntervalStats]:
    """Return the training up to a checkpoint, one entry per evaluation interval."""
    trainer = json.loads((directory / TRAINER).read_text())
    return [IntervalStats.model_validate(interval) for interval in trainer["intervals"]]


def describe_file(file: Path) -> dict[str, Any]:
    """Return the manifest's entry for a file: its size and hash."""
    return {"bytes": file.stat().st_size, "sha256": hash_file(file)}
