"""A machine that follows a search: it starts its part of each attempt of the group, and ends it with the attempt."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tasks.config.schema import TrainingConfig
from tasks.errors import BusyError, MachinesError
from tasks.runtime.files import make_folder
from tasks.runtime.group import (
    ATTEMPT,
    FOLDER,
    LEADER,
    POLL_S,
    Attempt,
    Heartbeat,
    Watch,
    heartbeat_of,
    launch_flags,
    read_value,
)
from tasks.runtime.launch import group_command
from tasks.runtime.machine import host_name
from tasks.runtime.processes import GRACE_S, Process, end_groups, spawn

logger = logging.getLogger(__name__)

_FINISHED_S = 2.0  # between two looks at the search's journal
_LOST_GRACE_S = 5.0  # of processes without rank 0, which alone saves


def follow(
    directory: str,
    rank: int,
    training: TrainingConfig,
    environment_of: Callable[[TrainingConfig], Mapping[str, Any]],
    is_finished: Callable[[], bool],
) -> None:
    """Take part in a search's training as machine number `rank` until the search is finished.

    Args:
        directory: of the search, on storage that all machines share; it may not be there yet.
        training: the search's settings, of which those of heartbeats are used.
        environment_of: returns this machine's numerical environment under the settings of an attempt.
        is_finished: returns whether the search has its champion.
    Raises:
        BusyError: another process has this rank.
        MachinesError: no search comes, or goes on, in `training.join_minutes`; or its folder is not there.
    """
    folder = Path(directory, FOLDER).resolve()
    make_folder(folder)
    own = folder / heartbeat_of(rank)
    _refuse_taken(own, rank, training.silence_s)
    with Heartbeat(own, training.silence_s) as heartbeat:
        logger.info(f"following {directory} as machine {rank} of {training.machines}")
        _Follower(folder, rank, training, environment_of, heartbeat).run(is_finished)
    logger.info("the search is finished")


@dataclass
class _Follower:
    folder: Path
    rank: int
    training: TrainingConfig
    environment_of: Callable[[TrainingConfig], Mapping[str, Any]]
    heartbeat: Heartbeat
    answered: int = -1
    started: int = -1
    part: Process | None = None
    leader: Watch = field(init=False)

    def __post_init__(self) -> None:
        self.leader = Watch(self.folder / LEADER)

    def run(self, is_finished: Callable[[], bool]) -> None:
        looks_at = 0.0
        try:
            while self.part is not None or time.monotonic() < looks_at or not is_finished():
                if time.monotonic() >= looks_at:
                    looks_at = time.monotonic() + _FINISHED_S
                self._step()
                time.sleep(POLL_S)
        finally:  # on SIGTERM, all machines save together
            self._end(GRACE_S)

    def _step(self) -> None:
        attempt: Attempt | None = read_value(self.folder / ATTEMPT, Attempt)
        is_led = self.leader.read() is not None and self.leader.silent_s <= self.training.silence_s
        if self.part is not None:
            self._watch_part(attempt, is_led=is_led)
        elif not is_led:
            if self.leader.silent_s > 60 * self.training.join_minutes:
                got = f"no heartbeat of the search for {self.training.join_minutes:g} minutes"
                raise MachinesError(f"machine {self.rank}", got=got, expected=_A_SEARCH, fix=_START)
        elif attempt is not None and attempt.state == "gathering" and attempt.number != self.answered:
            self._answer(attempt)
        elif attempt is not None and attempt.state == "running" and self.started < attempt.number == self.answered:
            self._start(attempt)

    def _answer(self, attempt: Attempt) -> None:
        if not Path(attempt.folder).is_dir() or not Path(attempt.cwd).is_dir():
            got = f"no folder {attempt.cwd}, or none {attempt.folder}, which the search has"
            raise MachinesError(f"machine {self.rank}", got=got, expected="storage that all machines share", fix=_MOUNT)
        environment = dict(self.environment_of(attempt.training))
        self.answered = attempt.number
        self.heartbeat.tell(attempt=attempt.number, code=None, environment=environment)

    def _start(self, attempt: Attempt) -> None:
        command, environment = group_command(attempt.training, launch_flags(attempt, self.rank))
        log = self.folder / f"machine-{self.rank}.log"
        logger.info(f"attempt {attempt.number}: meeting at {attempt.address}:{attempt.port}; log {log}")
        self.started = attempt.number
        self.part = spawn([*command, attempt.folder], log, environment, attempt.cwd)

    def _watch_part(self, attempt: Attempt | None, *, is_led: bool) -> None:
        assert self.part is not None
        is_over = attempt is None or attempt.number != self.started or attempt.state == "over"
        if is_over or not is_led:
            logger.info(f"attempt {self.started}: {'over' if is_over else 'its leader is lost'}")
            self._end(_LOST_GRACE_S)
        elif self.part.poll() is not None:
            logger.info(f"attempt {self.started}: this machine's processes ended with code {self.part.returncode}")
            self._end(_LOST_GRACE_S)

    def _end(self, grace_s: float) -> None:
        """End this machine's processes, those that have lost their launcher too."""
        if self.part is not None:
            end_groups([self.part], grace_s)
            self.heartbeat.tell(code=self.part.poll())
            self.part = None


_A_SEARCH = "a search that runs"
_START = "run `msft search` (or resume) on the first machine, and this command again; see training.join_minutes"
_MOUNT = "mount the storage at the same place on all machines"


def _refuse_taken(path: Path, rank: int, silence_s: float) -> None:
    """Raise if the rank's heartbeat goes on; one that stopped is that of a process that is lost."""
    watch = Watch(path)
    beat = first = watch.read()
    while beat is not None and watch.silent_s <= silence_s:
        if beat.host == host_name() and (beat.pid == os.getpid() or not psutil.pid_exists(beat.pid)):
            return
        if beat != first:
            raise BusyError(f"rank {rank} of {path.parents[1]}", got=f"owner process {beat.pid} on {beat.host}")
        time.sleep(POLL_S)
        beat = watch.read()
