"""Where each of several searches that run side by side in one process starts its workers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Lane:
    """Where one of several searches that run side by side in this process runs, and what ends it.

    Attributes:
        gpus: CUDA_VISIBLE_DEVICES of its workers; None: as this process has it.
        is_over: set to end its workers and the search itself, which a signal does to the main thread only.
        shares_gpus: whether other lanes have the same GPUs.
    """

    gpus: str | None
    is_over: threading.Event
    shares_gpus: bool = False


_LANE: ContextVar[Lane | None] = ContextVar("lane", default=None)


@contextmanager
def in_lane(lane: Lane) -> Iterator[None]:
    """Start the workers of the block's search in a lane."""
    token = _LANE.set(lane)
    try:
        yield
    finally:
        _LANE.reset(token)


def current_lane() -> Lane | None:
    """Return the lane of the search that asks; None where it runs alone."""
    return _LANE.get()
