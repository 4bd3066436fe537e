"""What a search ran on: versions, commit, hardware."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from tasks.config.schema import TrainingConfig
from tasks.runtime.gpus import gpu_named, installed_gpus
from tasks.runtime.processes import capture, has_accelerator, visible_gpus

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "accelerate",
    "peft",
    "safetensors",
    "prefect",
    "mlflow",
    "pandas",
    "numpy",
    "msft-search",
)


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
        "cpu": _cpu_name(),
        "num_cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": [_gpu_name(path) for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))],
    }


def device_of(training: TrainingConfig, devices: Path = Path("/dev")) -> str:
    """Return what a search computes on: `cpu`, or the model of its GPUs, all of them where they differ."""
    if training.device == "cpu" or not has_accelerator(devices):
        return "cpu"
    names = visible_gpus(devices)
    if not names:  # hidden, or another maker's
        return "cpu" if any(devices.glob("nvidia[0-9]*")) else "another accelerator"
    used = names if training.accelerate_config is not None else names[: training.num_processes]
    gpus = installed_gpus()
    models = [gpu.model if (gpu := gpu_named(name, gpus)) else "GPU of an unknown model" for name in used]
    return ", ".join(dict.fromkeys(models))


def version_of(name: str) -> str:
    """Return a package's version, or that it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def _gpu_name(path: Path) -> str:
    lines = path.read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("Model")), "unknown")
