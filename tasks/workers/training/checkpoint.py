"""Write and read the checkpoints of a roll-out, the times on record for them, and the roll-out's result."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor

from tasks.algorithm.state import CheckpointKey
from tasks.contracts import CheckpointRef, IntervalStats, RolloutResult, RolloutSpec
from tasks.errors import CheckpointDamagedError
from tasks.record.paths import ROLLOUT_RESULT, checkpoint_directory, published_checkpoints, step_of
from tasks.record.rollout import (
    STATE,
    TRAINER,
    drop_state,
    has_state,
    publish_with_manifest,
    reference_to,
    set_aside,
    verify,
)
from tasks.runtime.files import write_file
from tasks.workers.model import AVERAGE, WEIGHTS
from tasks.workers.training.tensor_file import safetensors_parts

OPTIMIZER = "optimizer.safetensors"
# Full tensors, of which each rank loads its part; frozen weights are missing.
_FULL = StateDictOptions(full_state_dict=True, strict=False)

Tensors = Mapping[str, torch.Tensor]
# Returns the tensors of one file of a checkpoint by their names.
ReadFile = Callable[[str], Tensors]


def gather_shards(tensors: Tensors, accelerator: Any) -> Tensors:
    """Return tensors with the sharded ones whole and on the CPU; every rank takes part, rank 0 has the result."""
    gathered = {}
    for name, value in tensors.items():
        whole = value.to(accelerator.device).full_tensor() if isinstance(value, DTensor) else value
        if accelerator.is_main_process:
            gathered[name] = whole.detach().cpu() if isinstance(value, DTensor) else whole.detach()
    return gathered


def publish_checkpoint(
    output: Path, key: CheckpointKey, tensors: Mapping[str, Tensors], trainer: Mapping[str, Any], published_at_ms: int
) -> str | None:
    """Publish a checkpoint of a roll-out by one atomic rename, and return the sha256 of its manifest.

    An existing one of this step is never overwritten, and gives None.

    Args:
        output: the roll-out's directory.
        tensors: tensors by name, for each file; only further training needs those that are not scored.
        trainer: step, cursors, and all else that the trainer continues from; JSON.
        published_at_ms: time on record for all points of this checkpoint in MLflow.
    """
    directory = checkpoint_directory(output, key.step)
    if directory.exists():
        return None
    num_bytes = sum(t.numel() * t.element_size() for part in tensors.values() for t in part.values())
    meta = {"round": key.round, "step": key.step, "cursors": trainer["cursors"], "published_at_ms": published_at_ms}
    # Training also starts from the base model, which has no moments and is kept whole.
    scored = AVERAGE if AVERAGE in tensors else WEIGHTS
    meta[STATE] = [file for file in tensors if file != scored] if tensors.get(OPTIMIZER) else []
    contents = {file: safetensors_parts(content) for file, content in tensors.items()}
    state = json.dumps(trainer).encode()
    return publish_with_manifest(directory, {**contents, TRAINER: [state]}, meta, num_bytes + (1 << 20))


def drop_earlier_states(output: Path, step: int) -> None:
    """Delete what only further training needs from the checkpoints of a roll-out before `step`."""
    for directory in published_checkpoints(output):
        if step_of(directory) < step:
            drop_state(directory)


def newest_whole(output: Path, wanted: Iterable[int], *, all_have_state: bool = True) -> Path | None:
    """Return the newest whole checkpoint that has its state and before which no `wanted` step is missing.

    A damaged checkpoint is named in the worker's log and set aside; training repeats it from the one before.

    Args:
        all_have_state: a checkpoint without the files that only further training needs is damaged.
    """
    whole = {
        step_of(directory): directory
        for directory in published_checkpoints(output)
        if _is_whole(directory, by_size=True, with_state=all_have_state)
    }
    hole = min((step for step in wanted if step not in whole), default=math.inf)
    for step in sorted((step for step in whole if step < hole), reverse=True):
        if has_state(whole[step]) and _is_whole(whole[step], by_size=False, with_state=True):
            return whole[step]
    return None


def _is_whole(directory: Path, *, by_size: bool, with_state: bool) -> bool:
    try:
        verify(directory, by_size=by_size, with_state=with_state)
    except CheckpointDamagedError as error:
        print(error, flush=True)
        set_aside(directory)
        return False
    return True


def read_trainer(directory: Path) -> dict[str, Any]:
    """Return `trainer` as `publish_checkpoint` was given it."""
    content: dict[str, Any] = json.loads((directory / TRAINER).read_text())
    return content


def file_reader(directory: Path) -> ReadFile:
    """Return the reader of a checkpoint on the disk."""
    return lambda file: load_file(directory / file)


def put_weights(model: Any, weights: Tensors) -> None:
    """Copy weights into a prepared model; every rank has all of them."""
    set_model_state_dict(model, dict(weights), options=_FULL)


def put_moments(model: Any, optimizer: torch.optim.Optimizer, moments: Tensors) -> None:
    """Give a prepared optimizer copies of the moments of a checkpoint; one of the base model has none."""
    if not moments:
        optimizer.state.clear()
        return
    state: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in moments.items():
        name, _, kind = key.rpartition("/")
        state.setdefault(name, {})[kind] = value.clone()  # torch may take these very tensors
    groups = get_optimizer_state_dict(model, optimizer)["param_groups"]
    set_optimizer_state_dict(model, optimizer, optim_state_dict={"state": state, "param_groups": groups}, options=_FULL)


class Timestamps:
    """The first time on record for each checkpoint of a roll-out; rank 0 records it before it publishes.

    A checkpoint that is lost or damaged is trained again to the same bytes except for the time. With another time,
    MLflow would hold its points twice: it never overwrites a point of another time or value.
    """

    def __init__(self, output: Path) -> None:
        self._path = output / "readings.json"

    def keep(self, step: int, seconds: float) -> tuple[int, float]:
        """Return the Unix time in ms and the interval's duration on record for `step`; record them if none are."""
        recorded = self._read()
        if str(step) not in recorded:
            recorded[str(step)] = {"published_at_ms": time.time_ns() // 1_000_000, "seconds": seconds}
            write_file(self._path, json.dumps(recorded))
        at_step = recorded[str(step)]
        return at_step["published_at_ms"], at_step["seconds"]

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            recorded: dict[str, dict[str, Any]] = json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):  # unreadable: MLflow may hold points twice, which fails no search
            return {}
        return recorded


def write_result(spec: RolloutSpec, kept_steps: Iterable[int], intervals: Sequence[IntervalStats]) -> None:
    """Delete the checkpoints of other steps, saved on SIGTERM, and write the result of the roll-out last.

    A roll-out without this file has not ended.
    """
    output = Path(spec.output_directory)
    checkpoints: list[CheckpointRef] = []
    for directory in published_checkpoints(output):
        if step_of(directory) in kept_steps:
            checkpoints.append(reference_to(directory, output.parents[1]))
        else:
            shutil.rmtree(directory)
    result = RolloutResult(
        round=spec.mixture.round,
        start=spec.start.key if spec.start is not None else checkpoints[0].key,
        checkpoints=tuple(checkpoints),
        intervals=tuple(intervals),
    )
    write_file(output / ROLLOUT_RESULT, result.model_dump_json(indent=1))
