"""Roll back to a checkpoint: query MLflow for it, verify its files, and delete unneeded checkpoints."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection
from pathlib import Path

from prefect.runtime import task_run

from tasks.algorithm.state import CheckpointKey, SearchState
from tasks.contracts import RegisteredCheckpoint, SearchRef
from tasks.errors import CheckpointDamagedError
from tasks.record.paths import (
    checkpoint_directory,
    checkpoints_and_remains,
    published_checkpoints,
    round_directories,
    round_directory,
)
from tasks.record.rollout import MANIFEST, drop_state, verify
from tasks.registry.checkpoints import find_checkpoint
from tasks.runtime.files import hash_file
from tasks.stage import stage

logger = logging.getLogger(__name__)


def _run_name() -> str:
    return f"roll back to {task_run.parameters['state'].checkpoint or 'the base model'}"


@stage("roll back", run_name=_run_name)
def roll_back(search: SearchRef, state: SearchState, champion: str = "best") -> RegisteredCheckpoint | None:
    """Return the checkpoint that the next roll-out starts from, with its scores; None is the base model.

    MLflow is asked for both. The files are compared with their hashes before anything is built on them. Of the
    finished rounds, all checkpoints but this one and the champion's weights are deleted from the disk; MLflow keeps
    their scores. Of those that a `champion` by the name of "soup" may average, and of `state.kept`,
    the weights stay.

    Raises:
        CheckpointNotFoundError: MLflow holds no READY checkpoint of this key.
        CheckpointDamagedError: its files are not those that were published.
    """
    if state.checkpoint is None:
        return None
    assert state.champion is not None
    checkpoint = find_whole(search, find_checkpoint(search, state.checkpoint))
    kept = {state.champion.checkpoint, *state.kept}
    remove_unneeded(search, state.round, kept, start=state.checkpoint, keeps_weights=champion == "soup")
    return checkpoint


def find_whole(search: SearchRef, checkpoint: RegisteredCheckpoint, *, with_state: bool = True) -> RegisteredCheckpoint:
    """Return the checkpoint after comparing its manifest with MLflow's hash and its files with the manifest.

    `with_state` includes the files that only further training needs.
    """
    directory = Path(search.directory, checkpoint.directory)
    try:
        verify(directory, with_state=with_state)
    except CheckpointDamagedError as error:
        raise CheckpointDamagedError(str(directory), error.problems, is_decided=True) from error
    if hash_file(directory / MANIFEST) != checkpoint.sha256:
        problem = f"{MANIFEST} is not the one that MLflow registered"
        raise CheckpointDamagedError(str(directory), [problem], is_decided=True)
    return checkpoint


def keep_the_champion(search: SearchRef, state: SearchState) -> None:
    """Delete all checkpoints but the champion's weights from the disk of a search that is over."""
    assert state.champion is not None
    remove_unneeded(search, state.round, {state.champion.checkpoint}, start=None)


def remove_unneeded(
    search: SearchRef,
    num_decided: int,
    kept: Collection[CheckpointKey],
    start: CheckpointKey | None,
    *,
    keeps_weights: bool = False,
) -> None:
    """Delete the checkpoints of the first `num_decided` rounds, except `start` and the weights of those in `kept`.

    Args:
        keeps_weights: keep the weights of all.
    """
    whole, held = _path_of(search, start), [_path_of(search, key) for key in kept]
    deleted: list[str] = []
    freed = 0
    for rollout in round_directories(search.directory):
        if int(rollout.name) >= num_decided:
            continue  # a roll-out under way
        scored = [*held, *(published_checkpoints(rollout) if keeps_weights else [])]
        for directory in checkpoints_and_remains(rollout):
            if directory in scored and directory != whole:
                drop_state(directory)
            elif directory != whole:
                freed += sum(file.stat().st_size for file in directory.iterdir())
                shutil.rmtree(directory)
                deleted.append(f"{rollout.name}/{directory.name}")
    if deleted:
        size = f"{freed / 1e6:,.1f} MB"
        logger.info(f"deleted {len(deleted)} unneeded checkpoints ({size}): {', '.join(deleted)}")


def _path_of(search: SearchRef, key: CheckpointKey | None) -> Path | None:
    return None if key is None else checkpoint_directory(round_directory(search.directory, key.round), key.step)
