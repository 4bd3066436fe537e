"""The decisions, champion and scores of a finished search, read from its files as they are written.

    python -m tests.golden.record searches/quickstart-20b79529 tests/golden/quickstart

writes them anew. A commit that changes a golden file says why.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

from tasks.runtime.files import hash_file

# Packages that compute a score or a weight, or draw and order the rows.
NUMERIC = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "safetensors", "numpy")
# The words of a reason are not part of a decision, and seconds and file sizes differ from run to run.
NOT_COMPARED = {"reason", "seconds", "num_bytes"}


def record_of(search: Path) -> dict[str, Any]:
    """Return the numerical environment of a finished search, its decisions, champion and test scores."""
    frames = search / "report"
    rollouts = sorted(search.glob("rounds/*/rollout_result.json"))
    return {
        "environment": environment_of(search),
        "decisions": rows_of(frames / "decisions.csv"),
        "ledger": rows_of(frames / "ledger.csv"),
        "batches": [" ".join(batch_hashes(rollout)) for rollout in rollouts],
        "champion": hash_file(search / "champion" / "model.safetensors"),
        "scores": rows_of(frames / "scores.csv"),
        "curves": rows_of(frames / "curves.csv"),
    }


def environment_of(search: Path) -> dict[str, Any]:
    """Return what the last digits depend on."""
    from torch.backends import cpu

    environment = json.loads((search / "environment.json").read_text())
    return {
        "cpu": environment["cpu"],
        "cpu_capability": cpu.get_cpu_capability(),
        "versions": {name: environment["versions"][name] for name in NUMERIC},
    }


def batch_hashes(rollout: Path) -> list[str]:
    """Return the chained hash of the rows that were drawn until each checkpoint of a roll-out."""
    return [interval["batch_hash"] for interval in json.loads(rollout.read_text())["intervals"]]


def rows_of(frame: Path) -> list[str]:
    """Return the rows of a CSV file as text, with every digit."""
    with frame.open(newline="") as file:
        return [
            " ".join(f"{key}={value}" for key, value in row.items() if key not in NOT_COMPARED)
            for row in csv.DictReader(file)
        ]


if __name__ == "__main__":
    search, golden = map(Path, sys.argv[1:])
    (golden / "decisions.json").write_text(json.dumps(record_of(search), indent=1) + "\n")
