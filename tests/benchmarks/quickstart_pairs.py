"""Time whole searches of two installations in turn: wall, and CPU seconds of all of their processes.

    python -m tests.benchmarks.quickstart_pairs OLD NEW --pairs 5 [--config quickstart] [--set a.b=c …]

OLD and NEW are each a virtual environment with `msft` installed, or a checkout, which runs by this Python. Each search
has a new folder, and so builds its base model, tokens and stores. Prints a line a search, then the medians with their
ratio, and the ratios of single pairs as its range; compare only searches of one call. Linux.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_SET_SUBREAPER = 36  # prctl: what outlives its parent becomes a child of ours, whose CPU seconds we are told


class Cost(NamedTuple):
    """Seconds of one search."""

    wall: float
    cpu: float


def command_of(place: Path) -> tuple[list[str], dict[str, str]]:
    """Return the command of an installation, and what it adds to the environment."""
    if (place / "bin" / "msft").exists():
        return [str(place / "bin" / "msft")], {}
    return [sys.executable, "-P", "-m", "flows.cli"], {"PYTHONPATH": str(place)}


def run(place: Path, arguments: Sequence[str]) -> Cost:
    """Run a search to its end, and that of all processes that it started."""
    command, extra = command_of(place.resolve())
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_", "MSFT_"))}
    with tempfile.TemporaryDirectory() as folder:
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        subprocess.run(
            [*command, "search", "--quiet", *arguments],
            cwd=folder,
            env=kept | extra,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        wall = time.monotonic() - began
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def summary_of(pairs: Sequence[tuple[Cost, Cost]]) -> list[str]:
    """Return a line for wall and for CPU: both medians, their ratio, and the least and most of single pairs."""
    lines = []
    for name in Cost._fields:
        old, new = ([getattr(pair[side], name) for pair in pairs] for side in (0, 1))
        medians = statistics.median(old), statistics.median(new)
        ratios = [b / a for a, b in zip(old, new, strict=True)]
        lines.append(
            f"{name}: {medians[0]:.1f} → {medians[1]:.1f} s, new ÷ old {medians[1] / medians[0]:.2f} "
            f"({min(ratios):.2f}–{max(ratios):.2f})"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the pairs and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--config", default="quickstart")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="a.b=c, of both.")
    given = parser.parse_args(arguments)
    ctypes.CDLL(None).prctl(_SET_SUBREAPER, 1, 0, 0, 0)
    settings = [part for value in given.overrides for part in ("--set", value)]
    pairs = []
    for index in range(given.pairs):
        costs = {}
        for side in ("old", "new") if index % 2 == 0 else ("new", "old"):  # neither is always the first
            costs[side] = run(getattr(given, side), [given.config, *settings])
            print(f"{index} {side}: {costs[side].wall:.1f} s, {costs[side].cpu:.1f} s of CPU", flush=True)
        pairs.append((costs["old"], costs["new"]))
    print("\n".join(summary_of(pairs)))


if __name__ == "__main__":
    main()
