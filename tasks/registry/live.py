"""A roll-out on the pages of MLflow and Prefect while it runs; its end records again whatever is missing."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

from tasks.contracts import CheckpointRef, IntervalStats, Mixture, RegisteredCheckpoint, RolloutSpec, SearchRef
from tasks.errors import MsftError
from tasks.record.paths import checkpoint_directory
from tasks.record.rollout import intervals_before, reference_to
from tasks.registry.checkpoints import RoundCheckpoints
from tasks.registry.runs import log_mixture, log_points, open_round_run
from tasks.report import messages
from tasks.report.prefect_artifacts import ProgressBar

logger = logging.getLogger(__name__)

# Seconds between two looks at the roll-out's directory, two readings of the machine, and two that are logged.
_LOOK_S, _READ_S, _LOG_S = 1.0, 5.0, 60.0
_PROGRESS_S = 3.0
# Seconds without a request after MLflow did not answer: one may take a minute, in which nobody watches the worker.
_PAUSE_S = 120.0


def record_rollout(
    search: SearchRef, mixture: Mixture, checkpoints: Sequence[CheckpointRef], intervals: Sequence[IntervalStats]
) -> tuple[RegisteredCheckpoint, ...]:
    """Log the mixture of a roll-out, and register those checkpoints that were not registered while it ran."""
    run_id = open_round_run(search, mixture.round, [part.name for part in mixture.draws])
    registered = RoundCheckpoints(search, run_id).register(checkpoints, intervals)
    log_mixture(search, run_id, mixture, checkpoints[0].published_at_ms)
    return registered


@contextmanager
def live_pages(search: SearchRef, spec: RolloutSpec) -> Iterator[LivePages]:
    """Give the pages of a roll-out that is about to run."""
    pages = LivePages(search, spec)
    yield pages
    pages.close()


class LivePages:
    """Shows a roll-out that runs; a failure is logged once, and the end of the roll-out records what is missing."""

    def __init__(self, search: SearchRef, spec: RolloutSpec) -> None:
        self._search = search.model_copy(update={"outage_s": 0.0})
        self._mixture = spec.mixture
        self._output = Path(spec.output_directory)
        first = [] if spec.start is not None else [0]
        self._steps = [*first, *(spec.first_step + offset for offset in spec.mixture.evaluation_offsets)]
        self._first_step, self._step = spec.first_step, spec.first_step
        self._bar = ProgressBar(search, spec.mixture.round)
        self._readings = SystemReadings()
        self._run_id = ""
        self._checkpoints: RoundCheckpoints | None = None
        self._registered: set[int] = set()
        self._is_away = False
        now = time.monotonic()
        self._look_at, self._read_at, self._log_at, self._progress_at = now, now, now + _LOG_S, now

    def show_progress(self, progress: messages.Progress) -> None:
        """Move the bar on Prefect's page, at most every few seconds."""
        self._step = self._first_step + progress.step
        if time.monotonic() >= self._progress_at or progress.step == progress.num_steps:
            self._progress_at = time.monotonic() + _PROGRESS_S
            percent = 100 * progress.step / progress.num_steps
            self._bar.show(percent, f"step {progress.step} of {progress.num_steps}, loss {progress.loss:.3f}")

    def poll(self) -> None:
        """Record in MLflow what is new, at most once a second."""
        now = time.monotonic()
        if now >= self._read_at:
            self._read_at = now + _READ_S
            self._readings.read()
        if now >= self._look_at:
            self._look_at = now + _LOOK_S
            self._try_to_show(is_end=False)

    def close(self) -> None:
        """Record in MLflow what is new at the end of the roll-out."""
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
        if self._checkpoints is None:
            names = [part.name for part in self._mixture.draws]
            self._run_id = open_round_run(self._search, self._mixture.round, names)
            self._checkpoints = RoundCheckpoints(self._search, self._run_id)
        # Until the worker has reported progress, it may still find a checkpoint damaged and set it aside.
        if (self._output / "progress.json").exists():
            self._register_new(self._checkpoints)
        if is_end or time.monotonic() >= self._log_at:
            self._log_at = time.monotonic() + _LOG_S
            now_ms = time.time_ns() // 1_000_000
            log_points(self._search, self._run_id, self._readings.take(), now_ms, self._step)

    def _register_new(self, checkpoints: RoundCheckpoints) -> None:
        waited_for = [step for step in self._steps if step not in self._registered]
        found = {step: path for step in waited_for if (path := checkpoint_directory(self._output, step)).is_dir()}
        if found:
            references = [reference_to(path, Path(self._search.directory)) for path in found.values()]
            checkpoints.register(references, intervals_before(found[max(found)]))
            self._registered |= set(found)


class SystemReadings:
    """Collects readings until they are taken, while the flow waits for its worker.

    MLflow's own thread ends at the first request that fails, and may hold up the end of the process for as long.
    """

    def __init__(self) -> None:
        self._monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor()]
        with suppress(ImportError, RuntimeError):  # no pynvml, or no NVIDIA GPU
            self._monitors.append(GPUMonitor())
        self.read()  # the first reading of the processors' load is always 0
        self._clear()

    def read(self) -> None:
        """Add one reading."""
        for monitor in self._monitors:
            monitor.collect_metrics()

    def take(self) -> dict[str, float]:
        """Return the mean of the readings since the last call, keyed as MLflow's page of system metrics wants it."""
        held = [item for monitor in self._monitors for item in monitor.aggregate_metrics().items()]
        self._clear()
        return {f"system/{key}": float(value) for key, value in held}

    def _clear(self) -> None:
        for monitor in self._monitors:
            monitor.clear_metrics()
