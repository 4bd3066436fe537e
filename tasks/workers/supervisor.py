"""Run a worker under supervision: it ends when its owner is gone, and leaves an account when it fails.

`python -m tasks.workers.supervisor MODULE …` supervises a module from its first moment: before it imports torch, which
may take a minute, and also if the module is not part of this project.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import runpy
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import psutil

from tasks.contracts import WorkerFailure
from tasks.errors import MsftError, NoDiskSpaceError
from tasks.runtime.files import is_out_of_space, publish_file

# The exit code that means "preempted": 128 + SIGTERM.
PREEMPTED = 143
_CHECK_S = 1.0
_WATCH = "watch-owner"
# As tasks.runtime.processes.GRACE_S: a rank that waits for a dead one never reads its flag.
_GRACE_S = 60.0
# Messages of torch's allocators on the CPU and on MPS when memory is exhausted.
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory")
# Messages of torch.distributed's backends in the ranks that lost another one.
_LOST_RANK = ("gloo", "nccl", "connection closed by peer", "connection reset by peer")


def rank() -> int:
    """Return the rank of this process among those of its launcher."""
    return int(os.environ.get("RANK", "0"))


def num_ranks() -> int:
    """Return the number of processes that the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def machine() -> int:
    """Return the number of this machine among those of its group."""
    return int(os.environ.get("GROUP_RANK", "0"))  # set by torchrun


class Preempted(BaseException):
    """The worker received SIGTERM and has saved its state."""


class StopFlag:
    """Records SIGTERM, so that the training loop can end between two optimizer steps."""

    def __init__(self) -> None:
        self.is_set = False
        _on_sigterm(self._set)

    def _set(self) -> None:
        self.is_set = True


def _preempt_on_sigterm() -> None:
    """Raise `Preempted` on SIGTERM. For workers without a step loop; each of their results is written atomically."""

    def preempt() -> None:
        raise Preempted

    _on_sigterm(preempt)


def exit_on_sigterm(spec: Callable[[], Path | None]) -> None:
    """Exit on SIGTERM without an exception, which an import may swallow; there is no state to save yet.

    Args:
        spec: returns the spec whose worker counts as preempted; None for an idle one.
    """

    def leave() -> None:
        path = spec()
        if path is not None:
            _write_failure(path, "preempted", "received SIGTERM", retryable=True)
        os._exit(PREEMPTED)

    _on_sigterm(leave)


def _on_sigterm(action: Callable[[], None]) -> None:
    """Call `action` on SIGTERM, and ignore SIGINT: Ctrl-C reaches the flow too, which sends SIGTERM to the worker."""

    def handler(number: int, frame: FrameType | None) -> None:
        action()

    signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def watch_owner() -> None:
    """Exit soon after the flow is gone (no handler sees SIGKILL); the loss of the launcher counts as SIGTERM."""
    told = os.environ.get("MSFT_OWNER_PID")
    if told is None or any(thread.name == _WATCH for thread in threading.enumerate()):
        return
    launcher = os.getppid()
    owner = _process(int(told))
    _end_without(owner, told)

    def watch() -> None:
        ends_at: float | None = None
        while True:
            time.sleep(_CHECK_S)
            _end_without(owner, told)
            if ends_at is None and os.getppid() != launcher:
                ends_at = time.monotonic() + _GRACE_S
                os.kill(os.getpid(), signal.SIGTERM)
            if ends_at is not None and time.monotonic() > ends_at:
                os._exit(PREEMPTED)

    threading.Thread(target=watch, daemon=True, name=_WATCH).start()


def _end_without(owner: psutil.Process | None, told: str) -> None:
    if not is_alive(owner):
        print(f"owner {told} is gone; ending", file=sys.stderr, flush=True)
        os._exit(PREEMPTED)


def _process(number: int) -> psutil.Process | None:
    try:
        return psutil.Process(number)
    except psutil.Error:
        return None


def is_alive(owner: psutil.Process | None) -> bool:
    """Return whether the owner runs: it is no unreaped zombie, and no other process has taken its number.

    A process that access is denied to belongs to another user, and so is not the owner.
    """
    try:
        return owner is not None and owner.is_running() and owner.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


@contextlib.contextmanager
def _alone(spec: Path) -> Iterator[None]:
    """Wait until no other worker uses this spec: one that lost its launcher may still be saving."""
    with spec.with_suffix(".lock").open("w") as lock:
        if rank() == 0:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run_worker(main: Callable[[Path], None], spec: Path) -> int:
    """Run the main function of a worker and return the exit code; a failure is written next to the spec."""
    watch_owner()
    _preempt_on_sigterm()
    try:
        with _alone(spec):
            main(spec)
    except Preempted:
        _write_failure(spec, "preempted", "received SIGTERM", retryable=True)
        return PREEMPTED
    except Exception as error:  # the process boundary: the other side must learn of any error
        is_ours = isinstance(error, MsftError)
        text = str(error) if is_ours else f"{type(error).__name__}: {error}"
        retryable = error.retryable if isinstance(error, MsftError) else _may_pass(error)
        _write_failure(spec, type(error).__name__, text, retryable=retryable, is_out_of_memory=_is_out_of_memory(error))
        with contextlib.suppress(OSError):  # the log may be on the full disk
            traceback.print_exc()
        return 1
    return 0


def _may_pass(error: Exception) -> bool:
    """Return whether a retry may succeed.

    It may after an I/O or network error, or a collective that lost a rank; not after a bug, or without memory or disk
    space.
    """
    if is_out_of_space(error):
        return False
    if isinstance(error, OSError | ConnectionError | TimeoutError):
        return True
    told = str(error).lower()
    return num_ranks() > 1 and any(words in told for words in _LOST_RANK)


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether the machine or the GPU lacks memory; torch has a class for CUDA alone."""
    told = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(words in told for words in _OUT_OF_MEMORY)
    )


def _write_failure(spec: Path, cause: str, text: str, *, retryable: bool, is_out_of_memory: bool = False) -> None:
    failure = WorkerFailure(
        cause=cause,
        error=text,
        rank=rank(),
        retryable=retryable,
        preempted=cause == "preempted",
        traceback=traceback.format_exc(),
        is_out_of_memory=is_out_of_memory,
    )
    path = spec.with_name(f"{spec.stem.removesuffix('_spec')}_failure.json")
    account = failure.model_dump_json(indent=2)
    # The first rank that failed knows the cause.
    try:
        publish_file(path, lambda staging: staging.write_text(account), keeps_older=True)
    except NoDiskSpaceError:  # an empty file takes no room, and tasks/runtime/launch.py knows it by that
        publish_file(path, Path.touch, keeps_older=True)


if __name__ == "__main__":
    watch_owner()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
