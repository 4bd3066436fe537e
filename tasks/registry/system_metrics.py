"""System metrics during a roll-out, by MLflow's monitors of processors, memory, disk and GPUs."""

from __future__ import annotations

from contextlib import suppress

from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor


class SystemReadings:
    """Collects readings until they are taken.

    MLflow's own thread that does this ends at the first request that fails, and may hold up the end of the process
    for as long as one takes; here the flow reads while it waits for its worker anyway.
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
        values = {
            f"system/{key}": float(value)
            for monitor in self._monitors
            for key, value in monitor.aggregate_metrics().items()
        }
        self._clear()
        return values

    def _clear(self) -> None:
        for monitor in self._monitors:
            monitor.clear_metrics()
