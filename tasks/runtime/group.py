"""The machines that train together, and the files in the search's directory by which they find and lose each other.

`leader.json` and `machine-K.json` are heartbeats: that of the machine with the flow, whose rank is 0, and that of each
follower. `attempt.json` is the group that trains now: the leader writes it as `gathering`, waits until every follower
has answered with its number, and lets all start as `running`; `over` ends it everywhere. A group never changes its
size: a machine that is lost ends the attempt, and the next one waits for it. Whether a heartbeat goes on is judged by
the reader's own clock, and each file has a name that is known before, since a network mount may list a folder late.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tasks.config.identity import differences
from tasks.config.schema import TrainingConfig
from tasks.contracts import Value
from tasks.errors import MachinesError, NoDiskSpaceError
from tasks.runtime.files import make_folder, write_file
from tasks.runtime.machine import free_port, host_name, own_address

logger = logging.getLogger(__name__)

FOLDER = "machines"
LEADER = "leader.json"
ATTEMPT = "attempt.json"
POLL_S = 0.2
_CHECK_S = 1.0  # between two looks at all heartbeats
_BEATS = 12  # within `training.silence_s`


class Beat(Value):
    """One heartbeat.

    Attributes:
        count: grows with each.
        attempt: the number that a follower has answered last.
        code: exit code of its part of that attempt; None until it has ended.
        environment: its numerical environment.
    """

    host: str
    pid: int
    count: int = 0
    attempt: int = -1
    code: int | None = None
    environment: Mapping[str, Any] | None = None


class Attempt(Value):
    """One group of processes over all machines.

    Attributes:
        training: settings of the search, with paths that all machines share.
        cwd: working directory of the flow, which paths in requests are relative to.
        folder: where the group's requests come.
        address, port: where its processes meet.
    """

    number: int
    state: Literal["gathering", "running", "over"]
    training: TrainingConfig
    cwd: str
    folder: str
    address: str = ""
    port: int = 0


def heartbeat_of(rank: int) -> str:
    """Return the name of a follower's heartbeat."""
    return f"machine-{rank}.json"


def launch_flags(attempt: Attempt, rank: int) -> list[str]:
    """Return the flags that give `accelerate launch` its machine's place in an attempt."""
    place = ["--machine_rank", str(rank), "--main_process_ip", attempt.address]
    return [*place, "--main_process_port", str(attempt.port), "--same_network", "--rdzv_backend", "static"]


def read_value(path: Path, kind: type[Value]) -> Any:
    """Return the value in a file; None where there is none yet."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError:
        return None


class Heartbeat:
    """Writes a heartbeat from a thread until the block ends, and removes it then."""

    def __init__(self, path: Path, silence_s: float) -> None:
        self._path, self._every_s = path, silence_s / _BEATS
        self._beat = Beat(host=host_name(), pid=os.getpid())
        self._lock, self._is_over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="heartbeat")

    def __enter__(self) -> Heartbeat:
        self.tell()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def tell(self, **news: Any) -> None:
        """Write the next heartbeat, with other values from now on."""
        with self._lock, suppress(OSError, NoDiskSpaceError):  # a full disk may have room for the next
            self._beat = self._beat.model_copy(update={"count": self._beat.count + 1, **news})
            write_file(self._path, self._beat.model_dump_json(), is_synced=False)

    def _run(self) -> None:
        while not self._is_over.wait(self._every_s):
            self.tell()


class Watch:
    """The heartbeat of another process, and for how long it has been silent."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: Beat | None = None
        self._changed_at = time.monotonic()

    def read(self) -> Beat | None:
        """Return the newest heartbeat; None where the process has not come, or has left."""
        beat: Beat | None = read_value(self._path, Beat)
        if beat != self._seen:
            self._seen, self._changed_at = beat, time.monotonic()
        return beat

    @property
    def silent_s(self) -> float:
        """Return for how long the heartbeat has been the same, or missing, as of the last `read`."""
        return time.monotonic() - self._changed_at


@dataclass
class Party:
    """An attempt under way, as the leader sees it."""

    attempt: Attempt
    path: Path
    watches: Mapping[int, Watch]
    _problem: str = ""
    _checked_at: float = 0.0

    def problem(self) -> str:
        """Return which machine is lost; empty while none is."""
        if not self._problem and time.monotonic() - self._checked_at > _CHECK_S:
            self._checked_at = time.monotonic()
            told = [self._loss_of(rank, watch) for rank, watch in self.watches.items()]
            self._problem = "; ".join(one for one in told if one)
        return self._problem

    def _loss_of(self, rank: int, watch: Watch) -> str:
        beat = watch.read()
        if beat is None or beat.attempt != self.attempt.number:
            return f"machine {rank} has left"
        if beat.code is not None:
            return f"the processes of machine {rank} ({beat.host}) ended with code {beat.code}"
        if watch.silent_s > self.attempt.training.silence_s:
            return f"machine {rank} ({beat.host}) has been silent for {watch.silent_s:.0f} s"
        return ""

    def close(self) -> None:
        """End the attempt on all machines; none is lost from now on."""
        self._checked_at = math.inf
        write_file(self.path, self.attempt.model_copy(update={"state": "over"}).model_dump_json(), is_synced=False)


class Group:
    """The machines of a search, as the one with its flow leads them.

    Args:
        directory: of the search.
        training: its settings, with resolved paths.
        environment: the numerical environment that all of them must have.
    """

    def __init__(self, directory: str, training: TrainingConfig, environment: Mapping[str, Any]) -> None:
        self._folder = Path(directory, FOLDER).resolve()
        self._training, self._environment, self._search = training, environment, directory
        names = {rank: self._folder / heartbeat_of(rank) for rank in range(1, training.machines)}
        self._watches = {rank: Watch(path) for rank, path in names.items()}

    @contextmanager
    def lead(self) -> Iterator[None]:
        """Let followers see in the block that the search goes on."""
        make_folder(self._folder)
        with Heartbeat(self._folder / LEADER, self._training.silence_s):
            yield

    def gather(self, folder: Path) -> Party:
        """Wait for all followers and begin the next attempt; its requests come in `folder`.

        Raises:
            MachinesError: a machine does not come in `training.join_minutes`, or is not like this one.
        """
        path = self._folder / ATTEMPT
        before: Attempt | None = read_value(path, Attempt)
        number = before.number + 1 if before is not None else 0
        attempt = Attempt(
            number=number, state="gathering", training=self._training, cwd=os.getcwd(), folder=str(folder)
        )
        write_file(path, attempt.model_dump_json())
        try:
            self._wait_for_all(number)
        except BaseException:
            Party(attempt, path, {}).close()
            raise
        update = {"state": "running", "address": own_address(), "port": free_port()}
        attempt = attempt.model_copy(update=update)
        write_file(path, attempt.model_dump_json())
        return Party(attempt, path, self._watches)

    def _wait_for_all(self, number: int) -> None:
        training, has_told = self._training, False
        deadline = time.monotonic() + 60 * training.join_minutes
        while missing := self._missing(number):
            listed = ", ".join(map(str, missing))
            if not has_told:
                has_told = True
                told = f"waiting for machine {listed} of {training.machines}, counted from 0"
                logger.info(f"{told}; on each: msft follow {self._search} --rank NUMBER")
            if time.monotonic() > deadline:
                told = f"{training.machines - len(missing)} of {training.machines}; machine {listed} is missing"
                raise MachinesError("machines of the search", got=f"{told} after {training.join_minutes:g} minutes")
            time.sleep(POLL_S)

    def _missing(self, number: int) -> Sequence[int]:
        beats = {rank: watch.read() for rank, watch in self._watches.items()}
        for rank, beat in beats.items():
            if beat is not None and beat.attempt == number and beat.environment != self._environment:
                changed = differences(self._environment, beat.environment or {})
                raise MachinesError(f"machine {rank} ({beat.host}) is not like the search's:", changed, fix=_ALIKE)
        return [rank for rank, beat in beats.items() if beat is None or beat.attempt != number]


_ALIKE = "install the same versions, and use machines of one kind (training.threads makes numbers of cores equal)"
