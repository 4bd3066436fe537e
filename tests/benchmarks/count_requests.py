"""Count the requests to MLflow, reads of the journal, started workers and starts of roll-outs of the smoke search.

    python -m tests.benchmarks.count_requests [--json FILE] [--output-root FOLDER]

Prints one row per MLflow request, one each for the journal and the workers, and one for each place that roll-outs start
from: the base model, memory in place, host memory, the disk. Training and scoring are those of the search itself.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

SMOKE = Path(__file__).parents[2] / "deployments" / "configs" / "smoke.yaml"
SEARCHES = ("search_runs", "search_logged_models")
READS = "journal reads"
REGISTRATIONS = "checkpoints registered"
STARTS = "worker processes started"
STARTS_FROM = "roll-outs from "
PLACES = ("the base model", "memory, in place", "host memory", "disk")


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Count the requests of every MLflow client, the reads of a journal and the started workers in the block.

    Accelerate's launcher, which starts the trainer, counts as one.
    """
    from mlflow import MlflowClient

    from tasks.runtime import pool

    counts: Counter[str] = Counter()

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            if kwargs.get("model_type") == "msft-checkpoint":
                counts[REGISTRATIONS] += 1
            return function(*args, **kwargs)

        return call

    read_bytes = Path.read_bytes

    def read(path: Path) -> bytes:
        counts[READS] += path.name == "journal.jsonl"
        return read_bytes(path)

    requests = {
        name: counted(name, value)
        for name, value in vars(MlflowClient).items()
        if callable(value) and not name.startswith("_")
    }
    with (
        patch.multiple(MlflowClient, **requests),
        patch.object(Path, "read_bytes", read),
        patch.object(pool, "spawn", counted(STARTS, pool.spawn)),
    ):
        yield counts


def starts_of(output_root: Path) -> Counter[str]:
    """Return how many roll-outs started from each place, by the logs of the searches."""
    logs = [path.read_text() for path in output_root.glob("*/rounds/*/rollout.log")]
    places = Counter(
        place for log in logs for place in re.findall(r"^weights of step \d+ from (.*)$", log, re.MULTILINE)
    )
    return Counter({f"{STARTS_FROM}{place}": places[place] for place in PLACES})


def summary_of(counts: Counter[str], output_root: Path) -> dict[str, int]:
    """Return the counts that have a limit, the starts of roll-outs, and every request by its name."""
    return {
        REGISTRATIONS: counts[REGISTRATIONS],
        "MLflow searches": sum(counts[name] for name in SEARCHES),
        READS: counts[READS],
        STARTS: counts[STARTS],
        **starts_of(output_root),
        **{name: count for name, count in counts.most_common() if name not in (READS, REGISTRATIONS, STARTS)},
    }


def main() -> None:
    """Run the smoke search and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the counts to this file too")
    parser.add_argument("--output-root", help="where the search keeps its files; a temporary folder by default")
    given = parser.parse_args()
    from flows.search import msft_search
    from tasks.config.loading import load_config
    from tasks.runtime.prefect_server import run_flow

    with tempfile.TemporaryDirectory() as folder:
        config = load_config(str(SMOKE), [f"output_root={given.output_root or folder}"])
        with counting() as counts:
            run_flow(lambda: msft_search(config), config.output_root)
        summary = summary_of(counts, Path(config.output_root))
    for name, count in summary.items():
        print(f"{name:<32}{count:>6}")
    if given.json is not None:
        given.json.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
