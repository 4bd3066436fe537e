"""The most tokens of a forward pass: on a GPU, what its memory holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tasks.record.paths import PASS_TOKENS
from tasks.runtime.files import write_file
from tasks.workers.model import device_name
from tasks.workers.training.batches import MAX_TOKENS
from tasks.workers.training.stepping import Stepper

# Tokens of the two passes that are measured, and the most that a pass is given: more are no faster.
_PROBES = (1024, 3072)
_MOST = 1 << 16
_SHARE = 0.85  # of the free memory
_MOMENTS = 8  # bytes that the optimizer's first step adds a weight


def set_limit(stepper: Stepper) -> None:
    """Set the most tokens of a pass, on a GPU to those that fit; unless the configuration gives the rows."""
    accelerator, spec = stepper.accelerator, stepper.spec
    if spec.training.micro_batch_size is not None or accelerator.device.type != "cuda":
        return
    path = Path(spec.output_directory).parents[1] / PASS_TOKENS
    name = device_name(accelerator.device, accelerator.num_processes)
    tokens = on_record(path, name, lambda: _measure(stepper), writes=accelerator.is_main_process)
    stepper.limit = replace(stepper.limit, tokens=tokens)


def on_record(path: Path, name: str, measure: Callable[[], int], *, writes: bool) -> int:
    """Return the tokens that the search's file has for a device, else those that are measured, and written there.

    They decide in which order a step's gradients add up: a search that is started again must not measure anew.
    """
    try:
        known: dict[str, int] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        known = {}
    if name not in known:
        known[name] = measure()
        if writes:
            write_file(path, json.dumps(known))
    return int(known[name])


def fitting_tokens(peak_bytes: Callable[[int], int], free_bytes: int) -> int:
    """Return how many tokens fit into `free_bytes`, by a line through two passes whose memory is measured."""
    small, large = (peak_bytes(tokens) for tokens in _PROBES)
    each = max(1.0, (large - small) / (_PROBES[1] - _PROBES[0]))
    base = max(0.0, small - each * _PROBES[0])
    return int(min(_MOST, max(MAX_TOKENS, (_SHARE * free_bytes - base) / each)))


def _measure(stepper: Stepper) -> int:
    """Return the tokens that fit on the fullest GPU of the processes."""
    device = stepper.accelerator.device

    def peak_bytes(num_tokens: int) -> int:
        row = max((store.row(store.longest_row) for store in stepper.stores), key=lambda row: len(row[0]))
        group = [(0, row)] * -(-num_tokens // len(row[0]))
        (one,), _ = stepper.lay_out([group], np.zeros(0, dtype=np.int64))
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        stepper.logits_at.losses(one.inputs, one.positions, one.labels).sum().backward()
        for parameter in stepper.model.parameters():
            parameter.grad = None
        return int(torch.cuda.max_memory_allocated(device) - before)

    free = torch.cuda.mem_get_info(device)[0]
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if not stepper.optimizer.state:
        trained = [p for p in stepper.learner.model.parameters() if p.requires_grad]
        free -= _MOMENTS * sum(parameter.numel() for parameter in trained)
    tokens = torch.tensor([fitting_tokens(peak_bytes, free)], device=device)
    return int(stepper.accelerator.gather(tokens).min())
