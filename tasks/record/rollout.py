"""Files of a roll-out: its checkpoints with their manifests, its progress, and the restarts of its worker."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks.algorithm.state import CheckpointKey
from tasks.contracts import CheckpointRef, CheckpointScores, IntervalStats, Value
from tasks.errors import CheckpointDamagedError, NoDiskSpaceError
from tasks.record.paths import score_file_of
from tasks.runtime.files import hash_file, publish_folder, write_file

MANIFEST = "manifest.json"
TRAINER = "trainer_state.json"
STATE = "state"  # entry of the manifest: the files that only further training needs


def publish_with_manifest(
    directory: Path, contents: Mapping[str, Iterable[bytes | memoryview]], meta: Mapping[str, Any], num_bytes: int
) -> str:
    """Publish files with a manifest of their sizes and hashes, and return the manifest's sha256.

    The hashes are of the memory that is written, so no file is read back.

    Args:
        contents: each file's content in parts, by its name.
        meta: further entries of the manifest.
        num_bytes: approximate size of the files.
    Raises:
        NoDiskSpaceError: the files do not fit; none is left behind.
    """
    manifest = ""

    def write_all(staging: Path) -> None:
        nonlocal manifest
        files = {name: write_hashed(staging / name, contents[name]) for name in sorted(contents)}
        manifest = json.dumps({**meta, "files": files}, indent=1)
        (staging / MANIFEST).write_text(manifest)

    publish_folder(directory, write_all, "a checkpoint", num_bytes)
    return hashlib.sha256(manifest.encode()).hexdigest()


def write_hashed(file: Path, parts: Iterable[bytes | memoryview]) -> dict[str, Any]:
    """Write a file and return the manifest's entry for it: its size and hash."""
    digest = hashlib.sha256()
    with file.open("wb") as stream:
        for part in parts:
            digest.update(part)
            stream.write(part)
        return {"bytes": stream.tell(), "sha256": digest.hexdigest()}


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest; raise CheckpointDamagedError if it cannot be read."""
    try:
        content: dict[str, Any] = json.loads((directory / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointDamagedError(str(directory), [f"{MANIFEST}: {error}"]) from error
    return content


def verify(
    directory: Path, only: str | None = None, *, by_size: bool = False, with_state: bool = True
) -> dict[str, Any]:
    """Return the manifest after comparing every file (or `only` this one) with it.

    Args:
        by_size: compare sizes only; detects kills and full disks, but no flipped bit.
        with_state: compare the files that only further training needs too, which `drop_state` deletes.
    Raises:
        CheckpointDamagedError: files are missing or have another size or hash; lists each.
    """
    manifest = read_manifest(directory)
    problems = []
    for name, expected in manifest["files"].items():
        if only not in (None, name) or (not with_state and name in manifest.get(STATE, ())):
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


def drop_state(directory: Path) -> None:
    """Delete the files of a checkpoint that only further training needs; its manifest stays as it is.

    A checkpoint whose manifest cannot be read stays as it is too: whoever needs it finds it damaged.
    """
    with suppress(CheckpointDamagedError):
        for file in _state_files(directory):
            file.unlink(missing_ok=True)


def has_state(directory: Path) -> bool:
    """Return whether a checkpoint has all files that further training needs."""
    return all(file.exists() for file in _state_files(directory))


def _state_files(directory: Path) -> list[Path]:
    return [directory / name for name in read_manifest(directory).get(STATE, ())]


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


def scores_in(directory: Path, key: CheckpointKey, sha256: str) -> CheckpointScores | None:
    """Return the scores in a checkpoint's file, made beside its training for one; None without those of `sha256`."""
    try:
        scores = CheckpointScores.model_validate_json((directory / score_file_of(key)).read_text())
    except (FileNotFoundError, ValueError):  # a damaged file costs a scoring, not the search
        return None
    return scores if scores.sha256 == sha256 else None


def digest_of(directories: Iterable[Path]) -> str:
    """Return the hash by which the scores of an average of these checkpoints are known: of their manifests in order.

    Raises:
        CheckpointDamagedError: a manifest is missing.
    """
    digest = hashlib.sha256()
    for directory in directories:
        try:
            digest.update(hash_file(directory / MANIFEST).encode())
        except FileNotFoundError as error:
            raise CheckpointDamagedError(str(directory), [f"{MANIFEST}: missing"], is_decided=True) from error
    return digest.hexdigest()


_PROGRESS = "progress.json"
_RESTARTS = "restarts.json"
_REPORT_S = 0.25


class LostTraining(Value):
    """Training beyond the checkpoint that a restarted worker resumes from."""

    num_tokens: int
    num_examples: int
    flops: float
    seconds: float


class Restart(Value):
    """One restart of a training worker; steps count from the roll-out's start, `reached_at_ms` is Unix time."""

    reached_step: int
    resumed_step: int
    reached_at_ms: int
    lost: LostTraining


class ProgressFile:
    """Progress written by rank 0, at most every quarter of a second.

    After a kill it misses at most a quarter of a second and one step.
    """

    def __init__(self, directory: Path, step: int, num_steps: int, device: str) -> None:
        self._directory, self._device = directory, device
        self._started_from, self._num_steps = step, num_steps
        self._started_at, self._reported_at = time.monotonic(), 0.0

    def note_restart(self, trained: Mapping[str, float]) -> None:
        """Record the training of the previous worker beyond the step that this one resumes from.

        Args:
            trained: num_tokens, num_examples, flops and seconds since the roll-out's start, at this worker's start.
        """
        before = read_progress(self._directory)
        if before is None:
            return
        lost = {name: max(0, before["trained"][name] - value) for name, value in trained.items()}
        restart = Restart(
            reached_step=before["step"],
            resumed_step=self._started_from,
            reached_at_ms=before["at_ms"],
            lost=LostTraining.model_validate(lost),
        )
        restarts = read_restarts(self._directory)
        if restarts[-1:] != (restart,):  # equal if a kill came between this write and the unlink
            content = [one.model_dump(mode="json") for one in (*restarts, restart)]
            write_file(self._directory / _RESTARTS, json.dumps(content))
        (self._directory / _PROGRESS).unlink()

    def is_due(self, step: int) -> bool:
        """Return whether to report now; the last step is always reported."""
        return time.monotonic() - self._reported_at >= _REPORT_S or step == self._num_steps

    def report(self, step: int, loss: float, tokens_per_s: float, trained: Mapping[str, float]) -> None:
        """Write the progress; `step` counts from the roll-out's start, `trained` is as in `note_restart`."""
        self._reported_at = time.monotonic()
        own_steps = max(1, step - self._started_from)
        line = {
            "step": step,
            "num_steps": self._num_steps,
            "loss": loss,
            "tokens_per_s": tokens_per_s,
            "seconds_left": (self._num_steps - step) * (self._reported_at - self._started_at) / own_steps,
            "device": self._device,
            "trained": dict(trained),
            "at_ms": time.time_ns() // 1_000_000,
        }
        with suppress(NoDiskSpaceError):  # only for display; the next checkpoint reports a full disk
            # Not synced, which would make the step wait for the disk: after a power loss it may be empty.
            write_file(self._directory / _PROGRESS, json.dumps(line), is_synced=False)


def read_progress(round_directory: Path) -> dict[str, Any] | None:
    """Return the progress of a roll-out; None before its first report, or where a power loss took it."""
    line: dict[str, Any] | None = None
    with suppress(FileNotFoundError, ValueError):
        line = json.loads((round_directory / _PROGRESS).read_text())
    return line


def read_restarts(round_directory: Path) -> tuple[Restart, ...]:
    """Return one entry for each restart of the round's training."""
    path = round_directory / _RESTARTS
    return tuple(map(Restart.model_validate, json.loads(path.read_text()))) if path.is_file() else ()
