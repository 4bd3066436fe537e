"""A search as its own command in processes of its own: start it, look at its processes, and send them signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tasks.record.events import Event
from tasks.record.journal import read_events
from tests.prefect_home import prepare_home

MARK = "MSFT_CHAOS_RUN"
# What a process is, by a word of its command line or of the request that it works on; the first that fits.
_KINDS = (
    ("prefect.server.api.server:create_app", "server"),
    ("accelerate.commands.launch", "launcher"),
    ("tasks.workers.train", "trainer"),
    ("tasks.workers.score", "scorer"),
    ("tasks.workers.build_base", "builder"),
    ("tasks.workers.serve", "idle worker"),
    ("flows.cli", "flow"),
)
KINDS = frozenset(kind for _, kind in _KINDS)
PHASES = ("starting", "preparing", "training", "scoring", "deciding", "champion", "closing")


@dataclass(frozen=True)
class Member:
    """One process of a search."""

    kind: str
    process: psutil.Process
    command: str


class Command:
    """One run of `msft search`; every process that it starts carries its mark in the environment."""

    def __init__(
        self,
        config: Path,
        output_root: Path,
        prefect_home: Path,
        overrides: Sequence[str] = (),
        program: Sequence[str] = ("-m", "flows.cli"),
    ) -> None:
        prepare_home(prefect_home)
        self.output_root = output_root
        self.mark = uuid.uuid4().hex
        self.began = time.monotonic()
        self.output = output_root.with_name(f"{output_root.name}.log")
        self.output.parent.mkdir(parents=True, exist_ok=True)
        # Other tests of this process set Prefect's log level for themselves, and then it tells of each lost server
        # with a traceback; a user's environment has none of these.
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_LOGGING_")}
        environment = {
            **inherited,
            MARK: self.mark,
            "PREFECT_HOME": str(prefect_home),
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(prefect_home.with_name("datasets")),
        }
        arguments = [*program, "search", str(config), "--set", f"output_root={output_root}"]
        arguments += [part for override in overrides for part in ("--set", override)]
        # A shell starts its background jobs with SIGINT ignored, and the search would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with self.output.open("ab") as log:
            self.start_of_output = log.tell()
            self.flow = subprocess.Popen(
                [sys.executable, *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, timeout_s: float) -> int | None:
        """Return the exit code, None where the command still runs after the time."""
        try:
            return self.flow.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def text(self) -> str:
        """Return what this run has printed."""
        return self.output.read_bytes()[self.start_of_output :].decode(errors="replace")

    def members(self) -> list[Member]:
        """Return all living processes of this run, those that have lost their parents too."""
        return members_of(self.mark)

    def member(self, kind: str) -> psutil.Process | None:
        """Return the process of this kind, None where there is none now."""
        return next((member.process for member in self.members() if member.kind == kind), None)

    def phase(self) -> str:
        """Return what the search is doing, from its processes and its journal."""
        members = self.members()
        kinds = {member.kind for member in members}
        if "trainer" in kinds:
            return "training"
        if any("test_scores" in member.command for member in members):
            return "champion"
        if "scorer" in kinds:
            return "scoring"
        events = [event.kind for event in events_of(self.output_root)]
        if "champion_crowned" in events:
            return "closing"
        if "server" not in kinds:
            return "starting"
        return "deciding" if events else "preparing"

    def survivors(self, grace_s: float) -> list[Member]:
        """Return the processes that are still there after the grace, which begins when the flow has ended."""
        deadline = time.monotonic() + grace_s
        while (left := self.members()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return left

    def kill_all(self) -> None:
        """End every process of this run, so that a failed experiment leaves none behind."""
        for member in self.members():
            send(member.process, "KILL")
        self.wait(10)


def members_of(mark: str) -> list[Member]:
    """Return all living processes that carry the mark, those that have lost their parents too."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) != mark or process.status() == psutil.STATUS_ZOMBIE:
                continue
            command = " ".join([*process.cmdline(), _request_of(process.cmdline())])
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            continue
        kind = next((kind for word, kind in _KINDS if word in command), "other")
        found.append(Member(kind, process, command))
    return found


def _request_of(command: Sequence[str]) -> str:
    """Return the request that a worker works on (tasks/workers/serve.py); empty for an idle one and other processes."""
    if "tasks.workers.serve" not in command:
        return ""
    try:
        requests = sorted(Path(command[-1]).glob("*.json"))
        return "" if not requests or requests[-1].with_suffix(".done").exists() else requests[-1].read_text()
    except OSError:
        return ""


def send(process: psutil.Process, name: str) -> None:
    """Send TERM, KILL or INT; STOP is followed by KILL after a moment. A process that is gone is no error."""
    try:
        if name == "STOP":
            process.suspend()
            time.sleep(2.0)
            process.kill()
        else:
            process.send_signal(getattr(signal, f"SIG{name}"))
    except psutil.NoSuchProcess:
        pass


def directory_of(output_root: Path) -> Path | None:
    """Return the search's directory, None where it is not there yet."""
    return next((lock.parent for lock in output_root.glob("*/lock")), None)


def events_of(output_root: Path) -> list[Event]:
    """Return the events of the search's journal."""
    directory = directory_of(output_root)
    return read_events(str(directory)) if directory is not None else []
