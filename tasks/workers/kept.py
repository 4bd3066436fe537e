"""What a worker process keeps in memory from one request to the next: the loaded model, and what belongs to it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch

from tasks.runtime.machine import host_memory

_kept: dict[str, tuple[Hashable, Any]] = {}


def take(kind: str, key: object) -> Any | None:
    """Return what was kept of this kind, if it was for an equal `key`; it is not kept any longer in either case."""
    held_key, value = _kept.pop(kind, (None, None))
    return value if held_key == key else None


def keep(kind: str, key: object, value: Any) -> None:
    """Keep a value, in place of an earlier one of this kind."""
    _kept[kind] = (key, value)


def leaves_room(device: torch.device) -> bool:
    """Return whether half of a device's memory is free, which the model of another process may need."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(device)
    else:
        free, total = host_memory()
    return bool(2 * free >= total)
