"""The end of a comparison or sweep as one value, for machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

_FRAMES = ("summary", "sub_datasets", "runs")


def comparison_values(directory: str) -> dict[str, Any]:
    """Return what its CSV files hold: accuracies in [0, 1], null where a number was not measured."""
    files = {name: Path(directory, f"{name}.csv") for name in _FRAMES}
    frames = {name: _records(file) for name, file in files.items() if file.is_file()}
    return {"comparison": Path(directory).name, "directory": directory, **frames}


def _records(file: Path) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads(
        pd.read_csv(file).to_json(orient="records", double_precision=15)
    )
    return records
