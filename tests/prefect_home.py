"""A home of Prefect whose database is migrated already, which takes a server 6 s of CPU at its first start."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

SHARED = "MSFT_TESTS_SHARED"  # set by tests/conftest.py: the folder that all workers of pytest-xdist share


def prepare_home(home: Path) -> None:
    """Copy a migrated database into a home that has none; outside of pytest, the server migrates its own."""
    shared = os.environ.get(SHARED)
    if shared is None or (home / "prefect.db").exists():
        return
    made = Path(shared, "prefect-home")
    with FileLock(f"{made}.lock"):
        if not (made / "prefect.db").exists():
            environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
            command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
            subprocess.run(command, env={**environment, "PREFECT_HOME": str(made)}, check=True, capture_output=True)
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(made / "prefect.db", home)
