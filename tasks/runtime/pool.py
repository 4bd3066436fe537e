"""Worker processes that stay between requests, so that a search starts each of them once.

A worker (`tasks.workers.serve`) reads requests from files in a folder of its own and answers with files there; a
process that shares the folder may run on another machine, so that both open the next name rather than list the folder,
which a network mount may keep from before. A worker that fails, is preempted or loses its launcher ends; the next
request starts another, as a new attempt with a folder of its own. The results of the work are the truth: an answer says
no more than that they are there, and counts with the attempt and the spec's hash of its request alone.
"""

from __future__ import annotations

import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.runtime.files import hash_file, make_folder, write_file
from tasks.runtime.group import Group, Party, launch_flags
from tasks.runtime.processes import Process, end_groups, spawn
from tasks.runtime.spans import span

_FOLDER = "workers"
_EARLY_LOG = "starts.log"  # of workers without a request
Key = tuple[str, ...]
LAUNCHER = "accelerate.commands.launch"
_GRACE_S = 5.0  # of an idle worker, which has nothing to save


@dataclass
class _Worker:
    process: Process
    folder: Path
    attempt: int
    is_fresh: bool  # started for the request that comes next
    party: Party | None  # of a group over several machines
    num_requests: int = 0

    @property
    def has_ended(self) -> bool:
        """Return whether the process has ended, or its group has lost a machine."""
        return self.process.poll() is not None or (self.party is not None and self.party.problem() != "")

    def end(self, *grace_s: float) -> None:
        """End the process, and its group on all machines."""
        end_groups([self.process], *grace_s)
        if self.party is not None:
            self.party.close()


@dataclass
class Request:
    """One spec that a worker process works on; `is_fresh` if the process was started for it."""

    process: Process
    answer: Path
    expected: Mapping[str, object]
    is_fresh: bool
    party: Party | None = None
    _is_done: bool = False

    @property
    def is_done(self) -> bool:
        """Return whether all ranks have finished the request; it stays done when the pool's files are removed."""
        self._is_done = self._is_done or read_json(self.answer) == self.expected
        return self._is_done

    @property
    def is_over(self) -> bool:
        """Return whether the request is done, or its worker has ended or lost a machine without."""
        if self.is_done or self.process.poll() is not None:
            return True
        return self.party is not None and self.party.problem() != ""

    @property
    def is_unread(self) -> bool:
        """Return whether a worker that was not started for this request has ended before it read it."""
        return not self.is_fresh and not self.answer.with_suffix(".read").exists()


class WorkerPool:
    """The workers of a search, one for each command.

    Args:
        folder: for the files of requests and answers.
        first: number of the first attempt.
        group: the machines of a search on more than one.
    """

    def __init__(self, folder: Path, first: int, group: Group | None = None) -> None:
        self._folder, self._group = folder, group
        self._idle: dict[Key, _Worker] = {}
        self._attempts = itertools.count(first)

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
        key, sha256 = _key(command, environment), hash_of(spec)
        worker = self._idle.pop(key, None)
        if worker is not None and worker.has_ended:
            worker.end(_GRACE_S)
            worker = None
        if worker is None:
            worker = self._start(command, environment, log, is_fresh=True)
        stem = worker.folder / f"{worker.num_requests:06}"
        worker.num_requests += 1
        expected = {"attempt": worker.attempt, "spec_sha256": sha256}
        content = {"module": module, "spec": str(spec), "log": str(log)}
        request = Request(worker.process, stem.with_suffix(".done"), expected, worker.is_fresh, worker.party)
        worker.is_fresh = False
        try:
            write_file(stem.with_suffix(".json"), json.dumps(content | {"answer": expected}))
            yield request
        finally:
            if request.is_done:
                self._idle[key] = worker
            else:
                worker.end()

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a worker before its first request, so that it imports what it needs in the meantime."""
        key = _key(command, environment)
        if key not in self._idle:
            self._idle[key] = self._start(command, environment, self._folder / _EARLY_LOG, is_fresh=False)

    def _start(self, command: Sequence[str], environment: Mapping[str, str], log: Path, *, is_fresh: bool) -> _Worker:
        attempt = next(self._attempts)
        folder = self._folder / f"worker-{attempt}"
        make_folder(folder)
        party = None
        if self._group is not None and LAUNCHER in command:
            party = self._group.gather(folder)
            place = command.index(LAUNCHER) + 1
            command = [*command[:place], *launch_flags(party.attempt, 0), *command[place:]]
        with span("process start") as figures:
            figures["processes"] = 1 + (LAUNCHER in command)  # a launcher starts the worker
            return _Worker(spawn([*command, str(folder)], log, environment), folder, attempt, is_fresh, party)

    @span("exits")
    def close(self) -> None:
        """End the idle workers."""
        end_groups([worker.process for worker in self._idle.values()], _GRACE_S)
        for party in [worker.party for worker in self._idle.values() if worker.party is not None]:
            party.close()
        self._idle.clear()


def _key(command: Sequence[str], environment: Mapping[str, str]) -> Key:
    # Not the whole environment: libraries that this process imports later add variables to it.
    return *command, environment.get("OMP_NUM_THREADS", "")


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the content of a request or an answer; None where it is not there yet."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except OSError:
        return None
    return content


def hash_of(spec: Path) -> str:
    """Return the sha256 of a spec; empty where there is none."""
    return hash_file(spec) if spec.is_file() else ""


_open: ContextVar[WorkerPool | None] = ContextVar("_open", default=None)


@contextmanager
def worker_pool(directory: str, group: Group | None = None) -> Iterator[None]:
    """Keep the workers of all requests in the block until it ends; their files are in `directory/workers` meanwhile.

    A pool that is open already is kept: the searches of a comparison share its workers.

    Args:
        group: the machines that a search on more than one trains on.
    """
    if _open.get() is not None:
        yield
        return
    folder = Path(directory, _FOLDER).resolve()
    # Of a search that was killed; one of its workers may still be about to answer.
    before = [int(worker.name.rpartition("-")[2]) for worker in folder.glob("worker-*")]
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    pool = WorkerPool(folder, first=1 + max(before, default=-1), group=group)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        if group is not None:
            stack.enter_context(group.lead())
        stack.callback(pool.close)
        stack.callback(_open.reset, _open.set(pool))
        yield


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
