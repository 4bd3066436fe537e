"""Worker processes that stay between requests, so that a search starts each of them once.

A worker (`tasks.workers.serve`) reads requests from files in a folder of its own and answers with files there; a
process that shares the folder may run on another machine. A worker that fails, is preempted or loses its launcher
ends; the next request starts another.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from tasks.runtime.files import make_folder, write_file
from tasks.runtime.processes import Process, end_groups, spawn

_FOLDER = "workers"
_EARLY_LOG = "starts.log"  # of workers without a request
Key = tuple[str, ...]
_GRACE_S = 5.0  # of an idle worker, which has nothing to save


@dataclass
class _Worker:
    process: Process
    folder: Path
    num_requests: int = 0


@dataclass
class Request:
    """One spec that a worker process works on."""

    process: Process
    answer: Path
    is_first: bool
    _is_done: bool = False

    @property
    def is_done(self) -> bool:
        """Return whether all ranks have finished the request; it stays done when the pool's files are removed."""
        self._is_done = self._is_done or self.answer.exists()
        return self._is_done

    @property
    def is_over(self) -> bool:
        """Return whether the request is done, or its worker has ended without."""
        return self.is_done or self.process.poll() is not None

    @property
    def is_unread(self) -> bool:
        """Return whether a worker that had served others has ended before it read this request."""
        return not self.is_first and not self.answer.with_suffix(".read").exists()


class WorkerPool:
    """The workers of a search, one for each command.

    Args:
        folder: for the files of requests and answers.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._idle: dict[Key, _Worker] = {}
        self._num_started = 0

    @contextmanager
    def request(
        self, command: Sequence[str], environment: Mapping[str, str], module: str, spec: Path, log: Path
    ) -> Iterator[Request]:
        """Let a worker run `module spec` while the block runs.

        A worker that has not finished the request at the end of the block is ended.

        Args:
            command: starts the worker, with its folder as the last argument.
            environment: of the worker.
            module: runs as `python -m module spec` would.
            spec: path of the input.
            log: file that the output is appended to.
        """
        key = _key(command, environment)
        worker = self._idle.pop(key, None)
        if worker is None or worker.process.poll() is not None:
            worker = self._start(command, environment, log)
        stem = worker.folder / f"{worker.num_requests:06}"
        worker.num_requests += 1
        content = {"module": module, "spec": str(spec), "log": str(log)}
        request = Request(worker.process, stem.with_suffix(".done"), is_first=worker.num_requests == 1)
        try:
            write_file(stem.with_suffix(".json"), json.dumps(content))
            yield request
        finally:
            if request.is_done:
                self._idle[key] = worker
            else:
                end_groups([worker.process])

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a worker before its first request, so that it imports what it needs in the meantime."""
        key = _key(command, environment)
        if key not in self._idle:
            self._idle[key] = self._start(command, environment, self._folder / _EARLY_LOG)

    def _start(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> _Worker:
        folder = self._folder / f"worker-{self._num_started}"
        self._num_started += 1
        make_folder(folder)
        return _Worker(spawn([*command, str(folder)], log, environment), folder)

    def close(self) -> None:
        """End the idle workers."""
        end_groups([worker.process for worker in self._idle.values()], _GRACE_S)
        self._idle.clear()


def _key(command: Sequence[str], environment: Mapping[str, str]) -> Key:
    # Not the whole environment: libraries that this process imports later add variables to it.
    return *command, environment.get("OMP_NUM_THREADS", "")


_open: ContextVar[WorkerPool | None] = ContextVar("_open", default=None)


@contextmanager
def worker_pool(directory: str) -> Iterator[None]:
    """Keep the workers of all requests in the block until it ends; their files are in `directory/workers` meanwhile.

    A pool that is open already is kept: the searches of a comparison share its workers.
    """
    if _open.get() is not None:
        yield
        return
    folder = Path(directory, _FOLDER).resolve()
    shutil.rmtree(folder, ignore_errors=True)  # of a search that was killed
    make_folder(folder)
    pool = WorkerPool(folder)
    token = _open.set(pool)
    try:
        yield
    finally:
        _open.reset(token)
        pool.close()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def current_pool() -> Iterator[WorkerPool]:
    """Yield the pool of the surrounding `worker_pool`, or else one for the block."""
    pool = _open.get()
    if pool is not None:
        yield pool
        return
    with tempfile.TemporaryDirectory() as folder, worker_pool(folder):
        pool = _open.get()
        assert pool is not None
        yield pool
