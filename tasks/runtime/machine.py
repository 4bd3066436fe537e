"""The machine: its GPUs, versions, commit and hardware, and the part of these that can change results."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import pynvml

from tasks.config.identity import COMPUTATION, Change, changes_between, engine_of
from tasks.config.schema import SearchConfig, TrainingConfig
from tasks.runtime.processes import capture

DEVICES = Path("/dev")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU: its number in the order of the bus, its unique id, and its model."""

    index: int
    uuid: str
    model: str


def host_name() -> str:
    """Return the name of this machine; MSFT_HOSTNAME replaces it, where one plays several."""
    return os.environ.get("MSFT_HOSTNAME") or os.uname().nodename


def own_address() -> str:
    """Return where other machines reach this one: MSFT_ADDRESS, or the address of its default route, or its name."""
    if told := os.environ.get("MSFT_ADDRESS"):
        return told
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # chooses a route, and sends nothing
        except OSError:
            return host_name()
        return str(probe.getsockname()[0])


def free_port() -> int:
    """Return a port that no process of this machine listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


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


# The packages whose version belongs to the numerical environment, and all that are recorded.
_NUMERICAL_PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "peft")
PACKAGES = (*_NUMERICAL_PACKAGES, "datasets", "safetensors", "prefect", "mlflow", "pandas", "numpy", "msft-search")
# A setting of the numerical environment, and the entry of `describe_environment` that says the same of the machine.
_CHANGE_NO_DIGIT = {"beside_training", "hidden_cache_gb", "silence_s", "join_minutes"}
_SAME_AS_SETTING = {"gpus": "training.device", "num_cores": "training.threads"}


def num_threads(threads: int | None) -> int:
    """Return the number of threads of a worker: as configured, or one a core."""
    return threads or os.cpu_count() or 1


def host_memory() -> tuple[int, int]:
    """Return the free and the whole memory in bytes, of the container (cgroup v2) where it has a limit of its own."""
    free, total = psutil.virtual_memory().available, psutil.virtual_memory().total
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        entries = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return free, total
    used = int(entries.get("anon", 0)) + int(entries.get("kernel", 0))  # cached files give way
    return min(free, limit - used), min(total, limit)


def describe_environment() -> dict[str, Any]:
    """Return package versions, git commit and dirtiness of this code, and the hardware."""
    code = Path(__file__).parent
    commit = capture(["git", "-C", str(code), "rev-parse", "HEAD"])
    return {
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in PACKAGES},
        "git_commit": commit or "unknown",
        "git_dirty": bool(commit) and bool(capture(["git", "-C", str(code), "status", "--porcelain"])),
        "platform": platform.platform(),
        "cpu": _value_in(Path("/proc/cpuinfo"), "model name"),
        "num_cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": [_value_in(path, "Model") for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))],
    }


def numerical_environment(config: SearchConfig) -> dict[str, Any]:
    """Return the settings and package versions that can change results in the last digits, as a flat mapping.

    A setting left to the machine has the machine's value: the device, and on a CPU the number of threads.
    """
    values = {
        f"{section}.{field}": getattr(getattr(config, section), field)
        for section, fields in COMPUTATION.items()
        for field in sorted(fields - _CHANGE_NO_DIGIT)
    }
    if config.training.trainable_layers != "all":  # earlier searches have no entry
        values["training.hidden_cache"] = config.training.hidden_cache_gb > 0
    if config.training.machines == 1:  # as in searches that knew one machine alone
        del values["training.machines"]
    values["training.device"] = device_of(config.training)
    if values["training.device"] == "cpu":
        values["training.threads"] = num_threads(config.training.threads)
    launched_by = config.training.accelerate_config
    if launched_by is not None:
        values["training.accelerate_config"] = Path(config.resolve(launched_by)).read_text()
    if (engine := engine_of(config, values["training.device"])) > 1:  # the first one's searches have no entry
        values["engine"] = engine
    return values | {name: version_of(name) for name in _NUMERICAL_PACKAGES}


def other_changes(before: Mapping[str, Any], now: Mapping[str, Any], numerical: Sequence[Change]) -> list[str]:
    """Return the differences of two environments beside those of the numerical environment, one line each.

    Args:
        before, now: two values of `describe_environment`.
        numerical: the changes of the numerical environment. A change of the machine that they name is left out.
    """
    told = {f"versions.{name}" for name in _NUMERICAL_PACKAGES}
    changed_settings = {change.path for change in numerical}
    told |= {entry for entry, setting in _SAME_AS_SETTING.items() if setting in changed_settings}
    return [
        f"{change}, which {'may change last digits' if change.path == 'cpu' else 'changes no result'}"
        for change in changes_between(before, now)
        if change.path not in told
    ]


def device_of(training: TrainingConfig, devices: Path = DEVICES) -> str:
    """Return what a search computes on: `cpu`, or the model of its GPUs, all of them where they differ."""
    if training.device == "cpu" or not has_accelerator(devices):
        return "cpu"
    names = gpus_of(training, devices)
    if not names:  # hidden, or another maker's
        return "cpu" if any(devices.glob("nvidia[0-9]*")) else "another accelerator"
    gpus = installed_gpus()
    models = [gpu.model if (gpu := gpu_named(name, gpus)) else "GPU of an unknown model" for name in names]
    return ", ".join(dict.fromkeys(models))


def version_of(name: str) -> str:
    """Return a package's version, or that it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _value_in(path: Path, key: str) -> str:
    """Return the first value of `key : value` lines in a file of /proc."""
    try:
        lines = path.read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "unknown")
