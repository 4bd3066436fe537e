"""How far a roll-out has come: the line that its worker leaves for its watcher, and what a killed one did in vain."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks.contracts import Value
from tasks.errors import NoDiskSpaceError
from tasks.runtime.files import write_file

_PROGRESS = "progress.json"
_RESTARTS = "restarts.json"
_REPORT_S = 0.25


class LostTraining(Value):
    """Training beyond the checkpoint that a restarted worker goes on from."""

    num_tokens: int
    num_examples: int
    flops: float
    seconds: float


class Restart(Value):
    """One restart of a training worker; steps count from the roll-out's start, `reached_at_ms` is Unix time."""

    reached_step: int
    resumed_step: int
    reached_at_ms: int
    lost: LostTraining


class ProgressFile:
    """The worker's side: rank 0 writes where it is, every quarter of a second at most.

    Whatever ends the worker, the last line tells up to which step it came, but for the quarter second and the
    step after it.
    """

    def __init__(self, directory: Path, step: int, num_steps: int, device: str) -> None:
        self._directory = directory
        self._device = device
        self._num_steps = num_steps
        self._started_at = time.monotonic()
        self._started_from = step
        self._reported_at = 0.0

    def note_restart(self, trained: Mapping[str, float]) -> None:
        """Put on record what a worker before this one had trained beyond where this one goes on from.

        Args:
            trained: num_tokens, num_examples, flops and seconds since the roll-out's start, at this worker's start.
        """
        before = read_progress(self._directory)
        if before is None:
            return
        lost = {name: max(0, before["trained"][name] - value) for name, value in trained.items()}
        restart = Restart(
            reached_step=before["step"],
            resumed_step=self._started_from,
            reached_at_ms=before["at_ms"],
            lost=LostTraining.model_validate(lost),
        )
        restarts = read_restarts(self._directory)
        if restarts[-1:] != (restart,):  # else a kill came between these two lines, and it is on record
            content = [one.model_dump(mode="json") for one in (*restarts, restart)]
            write_file(self._directory / _RESTARTS, json.dumps(content))
        (self._directory / _PROGRESS).unlink()

    def is_due(self, step: int) -> bool:
        """Say whether to report now; the last step always is."""
        return time.monotonic() - self._reported_at >= _REPORT_S or step == self._num_steps

    def report(self, step: int, loss: float, tokens_per_s: float, trained: Mapping[str, float]) -> None:
        """Write where the roll-out is; `step` counts from its start, `trained` is as in `note_restart`."""
        self._reported_at = time.monotonic()
        own_steps = max(1, step - self._started_from)
        line = {
            "step": step,
            "num_steps": self._num_steps,
            "loss": loss,
            "tokens_per_s": tokens_per_s,
            "seconds_left": (self._num_steps - step) * (self._reported_at - self._started_at) / own_steps,
            "device": self._device,
            "trained": dict(trained),
            "at_ms": time.time_ns() // 1_000_000,
        }
        with suppress(NoDiskSpaceError):  # it is only shown; the next checkpoint says how much room is needed
            write_file(self._directory / _PROGRESS, json.dumps(line))


def read_progress(round_directory: Path) -> dict[str, Any] | None:
    """Return the newest line of a roll-out's worker; None before its first."""
    try:
        line: dict[str, Any] = json.loads((round_directory / _PROGRESS).read_text())
    except FileNotFoundError:
        return None
    return line


def read_restarts(round_directory: Path) -> tuple[Restart, ...]:
    """Return one entry for each time that the round's training was taken up again."""
    path = round_directory / _RESTARTS
    return tuple(map(Restart.model_validate, json.loads(path.read_text()))) if path.is_file() else ()
