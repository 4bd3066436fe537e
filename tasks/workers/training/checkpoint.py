"""A checkpoint's files: weights, the optimizer's state and the trainer's integers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from tasks.algorithm.state import CheckpointKey
from tasks.errors import CheckpointDamagedError
from tasks.record.checkpoints import TRAINER, publish_with_manifest, published_checkpoints, set_aside, verify

OPTIMIZER = "optimizer.safetensors"
# Full and on the CPU, keyed by parameter name: independent of how many processes hold the model, FSDP included.
_FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


Tensors = dict[str, torch.Tensor]


def gather_weights(model: Any, names: list[str]) -> Tensors:
    """Return the weights of `names`; every rank takes part, rank 0 has the result."""
    weights = get_model_state_dict(model, options=_FULL)
    # Clones, since on one CPU process these are the model's own, and may change before they are written.
    return {name: weights[name].clone().contiguous() for name in names if name in weights}


def gather_moments(model: Any, optimizer: torch.optim.Optimizer) -> Tensors:
    """Return the optimizer's moments; every rank takes part, rank 0 has the result."""
    # Asked of an optimizer that has not stepped, torch takes a step of zeros to fill it, and counts it.
    full = get_optimizer_state_dict(model, optimizer, options=_FULL) if optimizer.state else {}
    return {
        f"{name}/{kind}": value.contiguous()
        for name, kinds in full.get("state", {}).items()
        for kind, value in kinds.items()
    }


def publish_checkpoint(
    directory: Path,
    key: CheckpointKey,
    tensors: Mapping[str, Mapping[str, torch.Tensor]],
    trainer: Mapping[str, Any],
    published_at_ms: int,
) -> None:
    """Publish a checkpoint, `tensors` by file, by one atomic rename; one of this step is never overwritten."""
    if directory.exists():
        return

    def write(staging: Path) -> None:
        for file, content in tensors.items():
            save_file(dict(content), staging / file)
        (staging / TRAINER).write_text(json.dumps(trainer))

    num_bytes = sum(t.numel() * t.element_size() for part in tensors.values() for t in part.values())
    meta = {
        "round": key.round,
        "step": key.step,
        "cursors": trainer["cursors"],
        "published_at_ms": published_at_ms,
    }
    publish_with_manifest(directory, write, meta, num_bytes + (1 << 20))


def newest_whole(output: Path, wanted: Iterable[int]) -> Path | None:
    """Return the roll-out's newest whole checkpoint before which none of the `wanted` steps is missing.

    A damaged one is named in the worker's log, set aside, and trained again from the one before it.
    """
    whole = {
        step_of(directory): directory
        for directory in published_checkpoints(output)
        if _is_whole(directory, by_size=True)
    }
    hole = min((step for step in wanted if step not in whole), default=math.inf)
    for step in sorted((step for step in whole if step < hole), reverse=True):
        if _is_whole(whole[step], by_size=False):
            return whole[step]
    return None


def step_of(directory: Path) -> int:
    """Return the step of a published checkpoint, from its name."""
    return int(directory.name.removeprefix("step-"))


def _is_whole(directory: Path, *, by_size: bool) -> bool:
    try:
        verify(directory, by_size=by_size)
    except CheckpointDamagedError as error:
        print(error, flush=True)
        set_aside(directory)
        return False
    return True


def read_trainer(directory: Path) -> dict[str, Any]:
    """Return the trainer's integers as `publish_checkpoint` was given them."""
    content: dict[str, Any] = json.loads((directory / TRAINER).read_text())
    return content


def load_optimizer(model: Any, optimizer: torch.optim.Optimizer, directory: Path) -> None:
    """Put a checkpoint's moments into the optimizer; a checkpoint of the base model has none."""
    moments = load_file(directory / OPTIMIZER)
    if not moments:
        return
    state: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in moments.items():
        name, _, kind = key.rpartition("/")
        state.setdefault(name, {})[kind] = value
    groups = get_optimizer_state_dict(model, optimizer)["param_groups"]
    set_optimizer_state_dict(
        model, optimizer, optim_state_dict={"state": state, "param_groups": groups}, options=_FULL
    )
