"""Run the searches of a comparison or sweep, one after another or side by side."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import httpx
from tqdm import tqdm

from tasks.comparison.grid import Arm
from tasks.config.schema import SearchConfig
from tasks.contracts import Value
from tasks.errors import MsftError
from tasks.report.console import printing_to
from tasks.runtime.gpu_slots import Lane, current_lane, in_lane
from tasks.runtime.gpus import visible_gpus

logger = logging.getLogger(__name__)

# A Prefect server that is away is started again, and the flow with it (tasks/runtime/prefect_server.py).
_NOT_THE_SEARCHS_FAULT = (httpx.TransportError,)


class Outcome(Value):
    """What became of an arm; `error` is empty where its search has its champion."""

    arm: Arm
    error: str = ""


def lanes(config: SearchConfig, parallel: int | None, devices: Path = Path("/dev")) -> tuple[str | None, ...]:
    """Return CUDA_VISIBLE_DEVICES for each search that may run at the same time; None leaves it as it is.

    Each search has its `training.num_processes` of the GPUs. By default as many run as find their own; of more,
    several share a GPU, which a small model alone does not fill. Without GPUs they share the CPU, by default one.
    """
    gpus = () if config.training.device == "cpu" else visible_gpus(devices)
    if not gpus:
        return (None,) * (parallel or 1)
    each = len(gpus) if config.training.accelerate_config is not None else config.training.num_processes
    groups = [",".join(gpus[i : i + each]) for i in range(0, len(gpus) - each + 1, each)]
    if not groups:
        return (None,)
    return tuple(groups[i % len(groups)] for i in range(parallel or len(groups)))


def run_side_by_side(
    arms: Sequence[Arm], search: Callable[[Arm], Any], gpus: Sequence[str | None], logs: Path
) -> tuple[Outcome, ...]:
    """Call `search` for each arm, as many at a time as `gpus` has entries; return what became of them, in order.

    A search that fails is reported and the others go on. Where several run at once, each prints to a file in `logs`.
    """
    is_over = threading.Event()
    free: SimpleQueue[str | None] = SimpleQueue()
    for gpu in gpus:
        free.put(gpu)

    def run(arm: Arm) -> Outcome:
        gpu = free.get()
        try:
            with in_lane(Lane(gpu, is_over, shares_gpus=gpus.count(gpu) > 1)):
                return _attempt(arm, search, logs if len(gpus) > 1 else None)
        finally:
            free.put(gpu)

    if len(gpus) == 1:
        return tuple(run(arm) for arm in arms)
    logs.mkdir(parents=True, exist_ok=True)
    # `datasets` reads files under a lock of tqdm's class, and takes it away again unless it was there before: two
    # searches that begin together then fail with "'tqdm' has no attribute '_lock'".
    tqdm.get_lock()
    with ThreadPoolExecutor(len(gpus)) as pool:
        futures = [pool.submit(copy_context().run, run, arm) for arm in arms]
        try:
            return tuple(future.result() for future in futures)
        except BaseException:  # a signal, which only the main thread hears
            is_over.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _attempt(arm: Arm, search: Callable[[Arm], Any], logs: Path | None) -> Outcome:
    logger.info(arm.label)
    try:
        if logs is None:
            search(arm)
        else:
            with printing_to(logs / f"{arm.config.name}-seed-{arm.seed}.log"):
                search(arm)
    except _NOT_THE_SEARCHS_FAULT:
        raise
    except Exception as error:  # whatever one search fails by, hours of the others must not be lost
        lane = current_lane()
        if lane is not None and lane.is_over.is_set():
            raise  # not its fault: all were told to end, which is said once, for all of them
        text = str(error) if isinstance(error, MsftError) else f"{type(error).__name__}: {error}"
        logger.error(f"{arm.label}: {text}")
        return Outcome(arm=arm, error=text or type(error).__name__)
    if logs is not None:
        logger.info(f"{arm.label}: done")
    return Outcome(arm=arm)
