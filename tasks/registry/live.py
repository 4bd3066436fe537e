"""What MLflow and Prefect show of a roll-out while it runs; all of it that lasts is put on record at its end anyway."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tasks.contracts import CheckpointRef, IntervalStats, Mixture, RolloutSpec, SearchRef
from tasks.errors import MsftError
from tasks.record.checkpoints import checkpoint_directory, intervals_before, reference_to
from tasks.registry import checkpoints as registry
from tasks.registry import points as run_log
from tasks.registry import runs as tracking
from tasks.registry.system_metrics import SystemReadings
from tasks.report import terminal
from tasks.report.prefect_artifacts import ProgressBar

logger = logging.getLogger(__name__)

# Between two looks at the roll-out's directory, two readings of the machine, and two that are logged.
_LOOK_S, _READ_S, _LOG_S = 1.0, 5.0, 60.0
_PROGRESS_S = 3.0
# After MLflow did not answer; a request to it may take up to a minute, in which nobody looks after the worker.
_PAUSE_S = 120.0


def record_published(
    search: SearchRef,
    mixture: Mixture,
    checkpoints: Sequence[CheckpointRef],
    intervals: Sequence[IntervalStats],
) -> None:
    """Register published checkpoints in MLflow with what was trained before each; idempotent by their keys."""
    run_id = tracking.open_round_run(search, mixture.round, [part.name for part in mixture.draws])
    for checkpoint in checkpoints:
        registry.register_checkpoint(search, run_id, checkpoint)
    published_at_ms = {checkpoint.key: checkpoint.published_at_ms for checkpoint in checkpoints}
    for interval in intervals:
        if interval.key in published_at_ms:
            run_log.log_training(search, run_id, interval, published_at_ms[interval.key])


@contextmanager
def live_pages(search: SearchRef, spec: RolloutSpec) -> Iterator[LivePages]:
    """Give the pages of a roll-out that is about to run."""
    pages = LivePages(search, spec)
    yield pages
    pages.close()


class LivePages:
    """Shows a roll-out under way; what fails here is noted once, and left to the end of the roll-out."""

    def __init__(self, search: SearchRef, spec: RolloutSpec) -> None:
        self._search = search.model_copy(update={"outage_s": 0.0})
        self._mixture = spec.mixture
        self._output = Path(spec.output_directory)
        first = [] if spec.start is not None else [0]
        self._steps = [*first, *(spec.first_step + offset for offset in spec.mixture.evaluation_offsets)]
        self._first_step, self._step = spec.first_step, spec.first_step
        self._bar = ProgressBar(search, spec.mixture.round)
        self._readings = SystemReadings()
        self._run_id: str | None = None
        self._registered: set[int] = set()
        self._is_away = False
        now = time.monotonic()
        self._look_at, self._read_at, self._log_at, self._progress_at = now, now, now + _LOG_S, now

    def show_progress(self, progress: terminal.Progress) -> None:
        """Move the bar on Prefect's page, at most every few seconds."""
        self._step = self._first_step + progress.step
        if time.monotonic() >= self._progress_at or progress.step == progress.num_steps:
            self._progress_at = time.monotonic() + _PROGRESS_S
            percent = 100 * progress.step / progress.num_steps
            self._bar.show(percent, f"step {progress.step} of {progress.num_steps}, loss {progress.loss:.3f}")

    def poll(self) -> None:
        """Put in MLflow what is new, where it is time to look."""
        now = time.monotonic()
        if now >= self._read_at:
            self._read_at = now + _READ_S
            self._readings.read()
        if now >= self._look_at:
            self._look_at = now + _LOOK_S
            self._try_to_show(is_end=False)

    def close(self) -> None:
        """Put in MLflow what the end of the roll-out has left."""
        self._readings.read()
        self._try_to_show(is_end=True)

    def _try_to_show(self, *, is_end: bool) -> None:
        try:
            self._show(is_end)
        except (MsftError, OSError, json.JSONDecodeError) as error:
            self._look_at = time.monotonic() + _PAUSE_S
            if not self._is_away:
                logger.info(f"not shown in MLflow before the end of the roll-out: {error}")
            self._is_away = True

    def _show(self, is_end: bool) -> None:
        if self._run_id is None:
            names = [part.name for part in self._mixture.draws]
            self._run_id = tracking.open_round_run(self._search, self._mixture.round, names)
        # Until the worker has reported progress, it may still find a checkpoint damaged and set it aside.
        if (self._output / "progress.json").exists():
            self._register_new()
        if is_end or time.monotonic() >= self._log_at:
            self._log_at = time.monotonic() + _LOG_S
            run_log.log_system(self._search, self._run_id, self._readings.take(), self._step)

    def _register_new(self) -> None:
        directories = {
            step: checkpoint_directory(self._output, step)
            for step in self._steps
            if step not in self._registered
        }
        found = {step: directory for step, directory in directories.items() if directory.is_dir()}
        if not found:
            return
        references = [reference_to(path, Path(self._search.directory)) for path in found.values()]
        record_published(self._search, self._mixture, references, intervals_before(found[max(found)]))
        self._registered |= set(found)
