"""Which NVIDIA GPUs the machine has, as its driver tells; torch is not asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pynvml


@dataclass(frozen=True)
class Gpu:
    """One GPU: its number in the order of the bus, its id that no other has, and its model."""

    index: int
    uuid: str
    model: str


def installed_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that this process could use; none where there is no driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        return tuple(_gpu(index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:  # a GPU that has fallen off the bus
        return ()
    finally:
        pynvml.nvmlShutdown()


def gpu_named(name: str, gpus: Sequence[Gpu]) -> Gpu | None:
    """Return the GPU that CUDA_VISIBLE_DEVICES calls `name`: its number, or the beginning of its id.

    A part of a GPU (MIG) has an id of its own, and is none of these.
    """
    found = [gpu for gpu in gpus if name == str(gpu.index) or gpu.uuid.startswith(name)]
    return found[0] if len(found) == 1 else None


def _gpu(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    uuid, model = pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle)
    return Gpu(index, _text(uuid), _text(model))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value  # bytes in older versions
