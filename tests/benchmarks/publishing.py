"""Count and time what training waits for when a checkpoint is published, beside a writer that reads back for the hash.

    python -m tests.benchmarks.publishing [--megabytes 410] [--pairs 5] [--folder FOLDER] [--json FILE]

Each pair publishes the same tensors both ways, in turn; a copy of them is all that training behind a GPU's writer waits
for. Seconds are medians, ratios medians over the pairs with their range.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tasks.algorithm.state import CheckpointKey
from tasks.runtime.files import hash_file, publish_folder
from tasks.workers.training.checkpoint import publish_checkpoint
from tasks.workers.training.publishing import Snapshot

FILES = {"model.safetensors": 1, "average.safetensors": 1, "optimizer.safetensors": 2}  # tensors of a parameter


def bytes_read() -> int:
    """Return how many bytes this process has read from files so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


def read_back(folder: Path, files: dict[str, dict[str, torch.Tensor]]) -> None:
    """Publish the files as `save_file` writes them, each read again for its hash."""

    def write(staging: Path) -> None:
        for name, tensors in files.items():
            save_file(tensors, staging / name)
            hash_file(staging / name)

    publish_folder(folder / "read-back", write, "a checkpoint")


def ways(folder: Path, files: dict[str, dict[str, torch.Tensor]]) -> dict[str, Callable[[], Any]]:
    """Return what is measured, by its name."""
    return {
        "hashed while written": lambda: publish_checkpoint(folder, CheckpointKey(0, 1), files, {"cursors": {}}, 0),
        "read back": lambda: read_back(folder, files),
        "copy": lambda: Snapshot(files, torch.device("cpu")),
    }


def measured(folder: Path, megabytes: int, pairs: int) -> Iterator[dict[str, tuple[float, int]]]:
    """Yield the seconds and the bytes read of each way, once a pair."""
    size = megabytes * 10**6 // (4 * 8 * sum(FILES.values()))
    files = {name: {f"{part}": torch.randn(size) for part in range(8 * share)} for name, share in FILES.items()}
    for _ in range(pairs):
        found = {}
        for name, run in ways(folder, files).items():
            before, began = bytes_read(), time.monotonic()
            run()
            found[name] = time.monotonic() - began, bytes_read() - before
        for published in folder.iterdir():
            shutil.rmtree(published)
        yield found


def main() -> None:
    """Measure and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=410, help="Size of the checkpoint.")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--folder", help="Where it is written; a temporary folder by default.")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        found = list(measured(Path(folder), given.megabytes, given.pairs))
    ratios = [pair["hashed while written"][0] / pair["read back"][0] for pair in found]
    figures = {
        name: {
            "seconds": round(statistics.median(pair[name][0] for pair in found), 3),
            "bytes read": max(pair[name][1] for pair in found),
        }
        for name in found[0]
    }
    ratio = {"median": round(statistics.median(ratios), 2), "range": [round(min(ratios), 2), round(max(ratios), 2)]}
    text = json.dumps({"megabytes": given.megabytes, **figures, "ratio": ratio}, indent=1)
    print(text)
    if given.json is not None:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
