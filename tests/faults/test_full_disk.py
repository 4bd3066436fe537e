"""A disk that is really full is named, waited for by nobody, and takes nothing that was finished."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from tasks.contracts import Mixture, SearchRef
from tasks.errors import NoDiskSpaceError, TrackingError, WorkerError
from tasks.record.events import EnvironmentChanged
from tasks.record.journal import append_event, read_events
from tasks.record.rollout import ProgressFile, read_progress
from tasks.registry import client as tracking_client
from tasks.registry import runs as tracking
from tasks.runtime.files import write_file
from tasks.runtime.launch import run_module

TRAINED = {"num_tokens": 1.0}
# A worker that finds the disk full when it fails, for a reason of its own.
WORKER = """
import sys
from pathlib import Path
from tasks.workers.supervisor import run_worker

def fail(spec):
    raise ValueError("a reason of its own")

sys.exit(run_worker(fail, Path(sys.argv[1])))
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB of its own; only root may make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=False)
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Take all the room there is; give it back by removing the file."""
    filler = disk / "filler"
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT)
    while free := shutil.disk_usage(disk).free:
        os.write(descriptor, bytes(min(free, 4096)))
    os.close(descriptor)
    return filler


def reference(folder: Path, uri: str) -> SearchRef:
    return SearchRef(
        search_id="f0f0f0f0", name="full", directory=str(folder), tracking_uri=uri, outage_s=3600, experiment_id="",
        run_id="",
    )  # fmt: skip


def note(text: str) -> EnvironmentChanged:
    return EnvironmentChanged(differences=(text,), numerical_environment={})


def test_the_journal_stays_whole_and_goes_on_when_there_is_room(small_disk: Path) -> None:
    one = append_event(str(small_disk), note("one"))
    filler = fill(small_disk)
    with pytest.raises(NoDiskSpaceError, match="no room for an event"):
        append_event(str(small_disk), note("x" * 10_000))  # more than its last block has room for
    assert read_events(str(small_disk)) == [one]
    filler.unlink()
    three = append_event(str(small_disk), note("three"))
    assert read_events(str(small_disk)) == [one, three]


def test_a_small_file_keeps_its_content_and_leaves_nothing_else(small_disk: Path) -> None:
    path = small_disk / "spec.json"
    write_file(path, "before")
    fill(small_disk)
    with pytest.raises(NoDiskSpaceError, match="expected: 100,000 bytes"):
        write_file(path, "x" * 100_000)
    assert path.read_text() == "before"
    assert {file.name for file in small_disk.iterdir()} == {"spec.json", "filler"}


def test_progress_that_cannot_be_shown_ends_no_training(small_disk: Path) -> None:
    progress = ProgressFile(small_disk, 0, 10, "cpu")
    progress.report(1, 0.5, 1.0, TRAINED)
    filler = fill(small_disk)
    progress.report(2, 0.5, 1.0, TRAINED)
    assert (read_progress(small_disk) or {})["step"] == 1
    filler.unlink()
    progress.report(3, 0.5, 1.0, TRAINED)
    assert (read_progress(small_disk) or {})["step"] == 3


def test_a_worker_without_room_for_its_account_is_not_retried(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    spec = small_disk / "rollout_spec.json"
    spec.touch()
    for file in ("rollout.log", "rollout_spec.lock"):
        (small_disk / file).touch()
    fill(small_disk)
    with pytest.raises(WorkerError, match="no room for the worker's own account of why it ended") as failed:
        run_module("failing_worker", spec, name="roll-out", threads=1)
    assert failed.value.retryable is False
    assert "got:      0 bytes free" in str(failed.value)


def test_a_full_disk_under_mlflow_is_named_at_once(
    small_disk: Path, tiny_mixture: Mixture, prepare_root: Callable[[Path], Path]
) -> None:
    uri = f"sqlite:///{prepare_root(small_disk) / 'mlflow.db'}"
    search = tracking.open_search_run(reference(small_disk / "search", uri), "full", {}, is_new=True)
    run_id = tracking.open_round_run(search, 0, [])
    filler = fill(small_disk)
    began = time.monotonic()
    with pytest.raises(NoDiskSpaceError, match="no room for what MLflow is to keep"):
        # More than the pages that the store has have room for.
        tracking.log_points(search, run_id, {f"system/{n}": 1.0 for n in range(1000)}, 1, 1)
    assert time.monotonic() - began < 600
    filler.unlink()
    tracking.log_mixture(search, run_id, tiny_mixture, 1)


def test_a_full_disk_is_an_outage_only_of_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As MLflow passes it on: its store's error as one that may pass, with the database's own as the cause."""
    engine = create_engine(f"sqlite:///{tmp_path / 'small.db'}")
    with engine.connect() as connection:
        connection.execute(text("PRAGMA max_page_count = 2"))
        connection.execute(text("CREATE TABLE t (x)"))
        with pytest.raises(OperationalError, match="database or disk is full") as full:
            connection.execute(text("INSERT INTO t VALUES (zeroblob(100000))"))

    def local(search: SearchRef) -> None:
        raise MlflowException("failed", error_code=TEMPORARILY_UNAVAILABLE) from full.value

    def remote(search: SearchRef) -> None:
        raise MlflowException(str(full.value), error_code=TEMPORARILY_UNAVAILABLE)

    assert isinstance(full.value.orig, sqlite3.OperationalError)
    search = reference(tmp_path, f"sqlite:///{tmp_path / 'small.db'}")
    with pytest.raises(NoDiskSpaceError, match=r"small\.db"):
        tracking_client.retry_while_unavailable(local)(search)
    with pytest.raises(TrackingError):
        tracking_client.retry_while_unavailable(remote)(search.model_copy(update={"outage_s": 1.0}))
    assert "does not answer; waiting" in capsys.readouterr().out
