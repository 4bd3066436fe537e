"""Go back to a checkpoint: ask MLflow where it is, check it, and drop what no one can need again."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from prefect.runtime import task_run

from tasks.algorithm.state import CheckpointKey, SearchState
from tasks.contracts import CheckpointRef, SearchRef
from tasks.errors import CheckpointDamagedError
from tasks.record.checkpoints import MANIFEST, checkpoint_directory, verify
from tasks.registry.checkpoints import find_checkpoint
from tasks.runtime.files import hash_file
from tasks.stage import stage

logger = logging.getLogger(__name__)


def _run_name() -> str:
    return f"roll back to {task_run.parameters['state'].checkpoint or 'the base model'}"


@stage("roll back", run_name=_run_name)
def roll_back(search: SearchRef, state: SearchState) -> CheckpointRef | None:
    """Return the checkpoint that the next roll-out starts from; None is the base model.

    Its files are compared with their hashes before anything is built on them. Checkpoints that are neither this
    one nor the champion are removed from the disk of finished rounds; MLflow keeps their scores.

    Raises:
        CheckpointNotFoundError: MLflow holds no READY checkpoint of this key.
        CheckpointDamagedError: its files are not those that were published.
    """
    if state.checkpoint is None:
        return None
    assert state.champion is not None
    checkpoint = find_whole(search, find_checkpoint(search, state.checkpoint))
    remove_unneeded(search, state.round, {state.checkpoint, state.champion.checkpoint})
    return checkpoint


def find_whole(search: SearchRef, checkpoint: CheckpointRef) -> CheckpointRef:
    """Return the checkpoint after comparing its manifest with MLflow's hash and its files with the manifest."""
    directory = Path(search.directory, checkpoint.directory)
    try:
        verify(directory)
    except CheckpointDamagedError as error:
        raise CheckpointDamagedError(str(directory), error.problems, is_decided=True) from error
    if hash_file(directory / MANIFEST) != checkpoint.sha256:
        problem = f"{MANIFEST} is not the one that MLflow registered"
        raise CheckpointDamagedError(str(directory), [problem], is_decided=True)
    return checkpoint


def keep_the_champion(search: SearchRef, state: SearchState) -> None:
    """Remove all checkpoints but the champion's from the disk of a search that is over."""
    assert state.champion is not None
    remove_unneeded(search, state.round, {state.champion.checkpoint})


def remove_unneeded(search: SearchRef, num_decided: int, kept: set[CheckpointKey]) -> None:
    """Delete all checkpoints of the first `num_decided` rounds from the disk but those that are kept."""
    needed = {checkpoint_directory(search.round_directory(key.round), key.step) for key in kept}
    removed: list[str] = []
    freed = 0
    for round_directory in sorted(Path(search.directory, "rounds").iterdir()):
        if int(round_directory.name) >= num_decided:
            continue  # a roll-out under way
        for directory in sorted((round_directory / "checkpoints").glob("*step-*")):
            if directory not in needed:
                freed += sum(file.stat().st_size for file in directory.iterdir())
                shutil.rmtree(directory)
                removed.append(f"{round_directory.name}/{directory.name}")
    if removed:
        size = f"{freed / 1e6:,.1f} MB"
        logger.info(
            f"removed {len(removed)} checkpoints that nothing can need again ({size}): {', '.join(removed)}"
        )
