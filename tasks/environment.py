"""What a search ran on: versions, commit, hardware."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from tasks.launch import capture

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
