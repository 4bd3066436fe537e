"""One of two machines that train a roll-out: `python -m tests.faults.machine lead SPEC` or `… follow SPEC RANK`.

Both play on one host. As a search does, the leader's pool waits for the follower, which ends when the roll-out has.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from tasks.contracts import RolloutSpec
from tasks.record.paths import ROLLOUT_RESULT
from tasks.report.terminal import log_to_terminal
from tasks.runtime.following import follow
from tasks.runtime.group import Group
from tasks.runtime.launch import run_accelerate
from tasks.runtime.pool import worker_pool


def lead(path: Path, module: str) -> None:
    """Train the roll-out, with the other machine."""
    spec = RolloutSpec.model_validate_json(path.read_text())
    directory = str(path.parents[2])
    with worker_pool(directory, Group(directory, spec.training, {})):
        run_accelerate(module, path, name="roll-out", training=spec.training)


def follow_lead(path: Path, rank: int) -> None:
    """Train as another machine until the roll-out has its result."""
    training = RolloutSpec.model_validate_json(path.read_text()).training
    result = path.with_name(ROLLOUT_RESULT)
    follow(str(path.parents[2]), rank, training, lambda training: {}, result.exists)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # as flows/cli.py
    log_to_terminal()
    part, spec, argument = sys.argv[1:]
    if part == "lead":
        lead(Path(spec), argument)
    else:
        follow_lead(Path(spec), int(argument))
