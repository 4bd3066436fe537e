"""The clock's first readings of a roll-out's checkpoints, kept so that training one again changes nothing on record."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from tasks.runtime.files import write_file

_FILE = "readings.json"


class ClockReadings:
    """What a clock says of each step at which a checkpoint is published; rank 0 puts it on record before that.

    A checkpoint that is damaged, or lost altogether, is trained again to the same bytes but for these readings, and
    MLflow would hold its points twice: it never overwrites one of another time or value.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / _FILE

    def keep(self, step: int, seconds: float) -> tuple[int, float]:
        """Return the Unix time in ms and the interval's seconds on record for `step`; else put these on record."""
        readings = self._read()
        if str(step) not in readings:
            readings[str(step)] = {"published_at_ms": time.time_ns() // 1_000_000, "seconds": seconds}
            write_file(self._path, json.dumps(readings))
        reading = readings[str(step)]
        return reading["published_at_ms"], reading["seconds"]

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            readings: dict[str, dict[str, Any]] = json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):  # unreadable: points may stand twice, which fails no search
            return {}
        return readings
