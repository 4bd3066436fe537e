"""Progress of a roll-out, written by its worker, and the training lost to killed workers."""

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
    """Training beyond the checkpoint that a restarted worker resumes from."""

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
    """Progress written by rank 0, at most every quarter of a second.

    After a kill it misses at most a quarter of a second and one step.
    """

    def __init__(self, directory: Path, step: int, num_steps: int, device: str) -> None:
        self._directory = directory
        self._device = device
        self._num_steps = num_steps
        self._started_at = time.monotonic()
        self._started_from = step
        self._reported_at = 0.0

    def note_restart(self, trained: Mapping[str, float]) -> None:
        """Record the training of the previous worker beyond the step that this one resumes from.

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
        if restarts[-1:] != (restart,):  # equal if a kill came between this write and the unlink
            content = [one.model_dump(mode="json") for one in (*restarts, restart)]
            write_file(self._directory / _RESTARTS, json.dumps(content))
        (self._directory / _PROGRESS).unlink()

    def is_due(self, step: int) -> bool:
        """Return whether to report now; the last step is always reported."""
        return time.monotonic() - self._reported_at >= _REPORT_S or step == self._num_steps

    def report(self, step: int, loss: float, tokens_per_s: float, trained: Mapping[str, float]) -> None:
        """Write the progress; `step` counts from the roll-out's start, `trained` is as in `note_restart`."""
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
        with suppress(NoDiskSpaceError):  # only for display; the next checkpoint reports a full disk
            write_file(self._directory / _PROGRESS, json.dumps(line))


def read_progress(round_directory: Path) -> dict[str, Any] | None:
    """Return the progress of a roll-out; None before its first report."""
    try:
        line: dict[str, Any] = json.loads((round_directory / _PROGRESS).read_text())
    except FileNotFoundError:
        return None
    return line


def read_restarts(round_directory: Path) -> tuple[Restart, ...]:
    """Return one entry for each restart of the round's training."""
    path = round_directory / _RESTARTS
    return tuple(map(Restart.model_validate, json.loads(path.read_text()))) if path.is_file() else ()
