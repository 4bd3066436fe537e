"""Measure the preparation of many short rows: wall, CPU seconds and the most memory.

    python -m tests.benchmarks.preparation --rows 100000 [--sub-datasets 2]

Writes the rows as JSONL into a temporary folder, prepares them as a search does, in this process, and prints one line.
A row is about 30 characters for the quickstart's tokenizer, which has a token for each.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from tasks.config.loading import parse_config
from tasks.data.inputs import load_inputs

BASE = Path(__file__).parents[2] / "data" / "quickstart_base"


def write_rows(folder: Path, num_rows: int) -> None:
    """Write a sub-dataset: its train rows, and 1,000 validation rows."""
    folder.mkdir(parents=True)
    for split, count in (("train", num_rows), ("validation", 1_000)):
        with (folder / f"{split}.jsonl").open("w") as file:
            for i in range(count):
                row = {"prompt": f"{folder.name} {split} {i} + {i % 97}?", "completion": f" => {i + i % 97}"}
                file.write(json.dumps(row) + "\n")


def main() -> None:
    """Prepare the rows, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="Train rows, over all sub-datasets.")
    parser.add_argument("--sub-datasets", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        names = [f"part{i}" for i in range(given.sub_datasets)]
        for name in names:
            write_rows(Path(folder, name), given.rows // given.sub_datasets)
        raw = {
            "name": "preparation",
            "output_root": f"{folder}/out",
            "model": {"source": str(BASE)},
            "mixture": {
                "sub_datasets": [{"name": name, "path": f"{folder}/{name}", "splits": {"test": None}} for name in names]
            },
            "training": {"max_length": 128},
            "search": {"max_epochs": 1},
        }
        config = parse_config(raw, "preparation")
        began = time.monotonic()
        inputs = load_inputs(config)
        seconds = time.monotonic() - began
    rows = sum(part.train.num_rows + part.validation.num_rows for part in inputs.sub_datasets)
    cpu = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    most = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(f"{rows:,} rows: {seconds:.1f} s, {cpu:.1f} s of CPU, most {most / 2**20:.2f} GiB in a process")


if __name__ == "__main__":
    main()
