"""What a published checkpoint says of itself, from its small files: where it is, and what was trained up to it."""

from __future__ import annotations

import json
from pathlib import Path

from tasks.algorithm.state import CheckpointKey
from tasks.contracts import CheckpointRef, IntervalStats
from tasks.runtime.files import MANIFEST, hash_file, read_manifest

TRAINER = "trainer_state.json"


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
    """Return what its roll-out had trained when a checkpoint was published, one entry an evaluation interval."""
    trainer = json.loads((directory / TRAINER).read_text())
    return [IntervalStats.model_validate(interval) for interval in trainer["intervals"]]
