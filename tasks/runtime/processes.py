"""Start processes, watch them, and end them; the only module that does."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen, TimeoutExpired, run
from typing import IO

# A worker finishes its optimizer step and saves a checkpoint after SIGTERM; then the group is killed.
GRACE_S = 60.0
# With -P, a `tasks.py` in the folder that the user is in is not taken for ours.
PYTHON = (sys.executable, "-P")
# Runs a module, and ends it when this process is gone.
SUPERVISED = (*PYTHON, "-m", "tasks.workers.supervisor")
_SERVICE_GRACE_S = 5.0
_CHILD_GRACE_S = 15.0  # for what a search does after its worker's grace
_POLL_S = 0.1
_RESTART_S = 1.0
# Set by a launcher of distributed processes; left over in a shell, they make a worker wait for ranks that never come.
_OF_LAUNCHERS = ("ACCELERATE_", "FSDP_", "MASTER_", "TORCHELASTIC_", "PMI_", "OMPI_", "MV2_")
_OF_RANKS = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK")
# Keeps Prefect's log lines off the terminal, and turns telemetry off.
_QUIET = {
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
Process = Popen[bytes]
_NO_ADVICE = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
_LEAVES_TORCH = "MSFT_LEAVES_TORCH_TO_WORKERS"
_NOT_PROXIED = ("127.0.0.1", "localhost", "::1")


def child_environment() -> dict[str, str]:
    """Return the environment of a child: this process's, without the variables of a launcher or a proxy to ourselves.

    A child ends when the process of MSFT_OWNER_PID is gone.
    """
    kept = {k: v for k, v in os.environ.items() if k not in _OF_RANKS and not k.startswith(_OF_LAUNCHERS)}
    # PYTHONSAFEPATH is -P for the processes that a launcher starts.
    return {**kept, **_without_proxy(kept), "PYTHONSAFEPATH": "1", "MSFT_OWNER_PID": str(os.getpid())}


def settle_environment() -> None:
    """Quiet the libraries that this process imports later, and let it reach the machine's own addresses."""
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    bypass_proxy()  # whichever server of this machine is asked


def leave_torch_to_workers() -> None:
    """Note that this process will not compute, so that `without_torch` applies in it."""
    os.environ[_LEAVES_TORCH] = "1"


@contextmanager
def without_torch() -> Iterator[None]:
    """Hide torch from what the block imports, in a command's process; transformers takes half of the time then.

    It remembers that torch is not there, so that a process which computes must not use this.
    """
    if _LEAVES_TORCH not in os.environ or "torch" in sys.modules:
        yield
        return
    told = os.environ.get(_NO_ADVICE)
    sys.modules["torch"] = None  # type: ignore[assignment]
    os.environ[_NO_ADVICE] = "1"  # transformers would tell a person that torch is missing
    try:
        yield
    finally:
        del sys.modules["torch"], os.environ[_NO_ADVICE]
        if told is not None:
            os.environ[_NO_ADVICE] = told


def bypass_proxy() -> None:
    """Let this process reach the machine's own addresses without a proxy."""
    os.environ.update(_without_proxy(os.environ))


def _without_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that exempt the machine's own addresses, beside those set already, from a proxy."""
    before = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    hosts = [host.strip() for host in before.split(",") if host.strip()]
    joined = ",".join(dict.fromkeys([*hosts, *_NOT_PROXIED]))
    return {"no_proxy": joined, "NO_PROXY": joined}


def spawn(command: Sequence[str], log: Path, environment: Mapping[str, str], folder: str | None = None) -> Process:
    """Start a command in a process group of its own, in `folder` or here; its output is appended to `log`."""
    # A file, since an inherited pipe would hide a crash of the flow until the child ends.
    with log.open("ab") as output:
        return Popen(
            command, stdin=DEVNULL, stdout=output, stderr=STDOUT, start_new_session=True, env=environment, cwd=folder
        )


@dataclass(frozen=True)
class Child:
    """A running module with its input on stdin and its answer on stdout, both files without a name."""

    process: Process
    output: IO[bytes]

    @property
    def code(self) -> int | None:
        """Return its exit code; None while it runs."""
        return self.process.poll()

    def answer(self) -> str:
        """Return its output so far."""
        self.output.seek(0)
        return self.output.read().decode(errors="replace")


def start_child(module: str, given: str, log: Path, environment: Mapping[str, str]) -> Child:
    """Start `python -m module` in a process group of its own; `environment` adds to `child_environment`."""
    answer = tempfile.TemporaryFile()  # noqa: SIM115  (read when the child has ended)
    with tempfile.TemporaryFile() as stdin, log.open("ab") as stderr:
        stdin.write(given.encode())
        stdin.seek(0)
        command, env = [*SUPERVISED, module], {**child_environment(), **environment}
        process = Popen(command, stdin=stdin, stdout=answer, stderr=stderr, start_new_session=True, env=env)
    return Child(process, answer)


def end_children(children: Sequence[Child]) -> None:
    """End children that have workers of their own, all at the same time."""
    end_groups([child.process for child in children], GRACE_S + _CHILD_GRACE_S)


def wait_until(is_over: Callable[[], bool], on_poll: Callable[[], None] | None = None) -> None:
    """Wait until a condition holds; call `on_poll` in the meantime, and once at the end."""
    while not is_over():
        if on_poll is not None:
            on_poll()
        time.sleep(_POLL_S)
    if on_poll is not None:
        on_poll()


def end_groups(processes: Sequence[Process], grace_s: float = GRACE_S) -> None:
    """Send SIGTERM to the groups of processes, wait for the grace, then send SIGKILL."""
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        deadline = time.monotonic() + wait_s
        while any([_group_lives(process) for process in processes]) and time.monotonic() < deadline:
            time.sleep(_POLL_S)


def _group_lives(process: Process) -> bool:
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def keep_running(arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> Iterator[list[int]]:
    """Run `python -m arguments…` while the block runs, and start it again when it dies; yield its exit codes so far."""
    command = [*SUPERVISED, *arguments]
    is_over = threading.Event()
    codes: list[int] = []

    def watch() -> None:
        process = spawn(command, log, environment)
        while not is_over.wait(_POLL_S):
            if process.poll() is not None and not is_over.wait(_RESTART_S):
                codes.append(process.returncode)
                process = spawn(command, log, environment)
        end_groups([process], _SERVICE_GRACE_S)

    thread = threading.Thread(target=watch, name="keep-running")
    thread.start()
    try:
        yield codes
    finally:
        is_over.set()
        thread.join()


def capture(command: list[str], timeout_s: float = 10.0) -> str:
    """Return the output of a short command, stripped; empty where it is missing or fails."""
    try:
        env = child_environment()
        done = run(command, capture_output=True, text=True, timeout=timeout_s, env=env, check=False)
    except (OSError, TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def run_prefect(arguments: Sequence[str], extra: Mapping[str, str], folder: Path | None = None) -> tuple[int, str]:
    """Run Prefect's own command in a folder, by default this one, to its end; return its exit code and its output."""
    command, env = [sys.executable, "-m", "prefect", *arguments], {**child_environment(), **extra}
    done = run(command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, text=True, env=env, cwd=folder, check=False)
    return done.returncode, done.stdout.strip()
