"""The undisturbed search that disturbed ones are compared with, run once."""

from __future__ import annotations

import fcntl
import os
import pickle

import pytest

from tests.faults.chaos import CONFIG, Undisturbed, run_undisturbed


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Return what the first worker of pytest-xdist that came here has run; the others wait for it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # each worker has its own below it
    kept = folder / "undisturbed.pickle"
    with (folder / "undisturbed.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            kept.write_bytes(pickle.dumps(run_undisturbed(CONFIG, folder / "undisturbed-search")))
    search: Undisturbed = pickle.loads(kept.read_bytes())
    return search
