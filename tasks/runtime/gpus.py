"""The GPUs of the machine, and those of a search."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pynvml

from tasks.config.schema import TrainingConfig

DEVICES = Path("/dev")


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU: its number in the order of the bus, its unique id, and its model."""

    index: int
    uuid: str
    model: str


def installed_gpus() -> tuple[Gpu, ...]:
    """Return the NVIDIA GPUs of the machine, as the driver lists them; none where there is no driver."""
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


def visible_gpus(devices: Path = DEVICES) -> tuple[str, ...]:
    """Return the names of the NVIDIA GPUs under `devices` that CUDA_VISIBLE_DEVICES lets a worker see.

    A container may have the machine's fourth alone, as nvidia3: CUDA counts what is there.
    """
    found = [str(number) for number, _ in enumerate(devices.glob("nvidia[0-9]*"))]
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not found or chosen is None:
        return tuple(found)
    return tuple(name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1"))


def gpus_of(training: TrainingConfig, devices: Path = DEVICES) -> tuple[str, ...]:
    """Return the names of the GPUs that a search trains on: the first `num_processes` that it sees.

    With an Accelerate config they are all that it sees, since the file decides.
    """
    if training.device == "cpu":
        return ()
    found = visible_gpus(devices)
    return found if training.accelerate_config is not None else found[: training.num_processes]


def has_accelerator(devices: Path = DEVICES) -> bool:
    """Return whether a worker sees a GPU of any maker; torch is not imported here."""
    return bool(visible_gpus(devices)) or any((devices / node).exists() for node in ("kfd", "dxg"))


def _gpu(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    uuid, model = pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle)
    return Gpu(index, _text(uuid), _text(model))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value  # bytes in older versions
