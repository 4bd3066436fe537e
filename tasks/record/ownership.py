"""One owner at a time of a search's directory, of its name, of the cache and of a GPU.

The locks are `flock`s: they end with the process that holds them, and searches that share a GPU hold a shared one,
which filelock offers only on an SQLite file. The file of a lock contains its owner, for messages."""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from tasks.config.identity import differences, identity_in, identity_of, search_id_of
from tasks.config.schema import SearchConfig
from tasks.config.strict_yaml import read_yaml
from tasks.errors import BusyError, JournalError, LockError, OtherSearchError
from tasks.record.events import SearchStarted, champion_of, of_kind
from tasks.record.journal import read_events
from tasks.record.paths import CONFIG, ROUNDS
from tasks.runtime.files import make_folder
from tasks.runtime.machine import DEVICES, gpu_named, gpus_of, host_name, installed_gpus

logger = logging.getLogger(__name__)

# Prefect ends a run's process 30 s after its SIGTERM; the rest is for a slow machine.
HANDOVER_S = 120.0
# A worker of a pool may begin several searches of a comparison on one machine, which take turns on its GPUs.
QUEUE_S = 7 * 24 * 3600.0
# Another search may be downloading a model, or tokenizing a large mixture.
CACHE_WAIT_S = 4 * 3600.0
_LOCK = "lock"
_POLL_S = 0.2


def directory_of(config: SearchConfig) -> Path:
    """Return the directory of a search."""
    return Path(config.output_root, f"{config.name}-{search_id_of(config)}")


@contextmanager
def own_directory(config: SearchConfig, wait_s: float = 0.0) -> Iterator[str]:
    """Own the search's directory in the block; yield its path.

    Another owner is waited for, and an earlier attempt of the same flow run without limit.

    Raises:
        BusyError: another process owns it.
        OtherSearchError: an unfinished search of this name and seed has another configuration.
    """
    directory = directory_of(config)
    _refuse_unfinished(config, directory)
    make_folder(directory / ROUNDS)
    with _locked(directory / _LOCK, f"search directory {directory}", wait_s, is_of_search=True):
        yield str(directory)


@contextmanager
def own_cache(config: SearchConfig) -> Iterator[None]:
    """Let one search at a time fill the cache of `output_root`; the others then find there what they need."""
    cache = Path(config.output_root, "cache")
    make_folder(cache)
    with _locked(cache / f".{_LOCK}", f"cache {cache}", CACHE_WAIT_S):
        yield


@contextmanager
def own_gpus(
    config: SearchConfig,
    wait_s: float = 0.0,
    devices: Path = DEVICES,
    locks: Path | None = None,
    *,
    is_shared: bool = False,
) -> Iterator[tuple[str, ...]]:
    """Give the GPUs that the search trains on to this process alone, among all searches of this machine (or container).

    With `is_shared`, other processes that pass it too may own them at the same time. The GPUs are the first
    `training.num_processes` that CUDA_VISIBLE_DEVICES names (all, with an Accelerate config).

    Raises:
        BusyError: another search owns one of them.
    """
    names = gpus_of(config.training, devices)
    kind = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
    with ExitStack() as stack:
        for key, name in _keys_of(names).items():
            lock = (locks or Path(tempfile.gettempdir())) / f"msft-gpu-{key}.lock"
            stack.enter_context(_locked(lock, f"GPU {name}", wait_s, kind))
        yield names


def _keys_of(names: Sequence[str]) -> dict[str, str]:
    """Return the names by the key of each GPU's lock: its id, since its name may be its number or its id."""
    gpus = installed_gpus()
    return {gpu.uuid if (gpu := gpu_named(name, gpus)) else name.replace("/", "-"): name for name in names}


@contextmanager
def _locked(
    path: Path, what: str, wait_s: float, kind: int = fcntl.LOCK_EX, *, is_of_search: bool = False
) -> Iterator[None]:
    """Hold the lock of `what` in the block; a wait is logged with the name of the owner.

    With `is_of_search`, an owner of the same flow run is an earlier attempt of this search. Of what searches share, it
    may be another search of the same comparison, and the wait for it has an end.
    """
    has_told = False
    deadline = time.monotonic() + wait_s
    # A restarted comparison gives its searches new flow runs, and keeps its own.
    from prefect.runtime import flow_run  # a command that owns nothing answers without Prefect, which takes 2 s

    run = f", flow run {flow_run.root_flow_run_id or flow_run.id}" if flow_run.id else ""
    with _open_for_all(path) as lock:
        while not _try_lock(lock, kind):
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            # An attempt on a machine that only seemed lost still works for the same run.
            is_own = is_of_search and bool(run) and owner.endswith(run)
            if time.monotonic() >= deadline and not is_own:
                raise BusyError(what, got=f"owner {owner}")
            if not has_told:
                logger.info(f"{what} is in use by {owner}; waiting")
                has_told = True
            time.sleep(_POLL_S)
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {host_name()}{run}\n")
        lock.flush()
        yield


def _try_lock(lock: IO[str], kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open_for_all(path: Path) -> IO[str]:
    """Open a lock file so that other users of the machine can open it too.

    Raises:
        LockError: another user made it with permissions for themselves alone.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW
    try:
        return os.fdopen(os.open(path, flags), "a+")
    except FileNotFoundError:
        return os.fdopen(_created(path, flags), "a+")
    except OSError as error:
        raise LockError(str(path), str(error.strerror)) from error


def _created(path: Path, flags: int) -> int:
    # Only for a missing file: in /tmp, Linux refuses O_CREAT on another user's file, whatever its mode.
    try:
        descriptor = os.open(path, flags | os.O_CREAT, 0o666)
    except PermissionError as error:
        raise LockError(str(path), str(error.strerror)) from error
    with suppress(PermissionError):  # another user has created it in between
        os.fchmod(descriptor, 0o666)  # the umask may have taken it from others
    return descriptor


def _refuse_unfinished(config: SearchConfig, own: Path) -> None:
    """Raise if an unfinished search has this name and seed, and another configuration.

    Otherwise an edited file would start a new search without notice.
    """
    for directory in sorted(Path(config.output_root).glob(f"{config.name}-*")):
        before = _config_in(directory) if directory != own else None
        if before is None or (before.get("name"), before.get("seed")) != (config.name, config.seed):
            continue  # another search, whose name begins with this one
        if not _is_over_or_owned(directory):
            raise OtherSearchError(str(directory), differences(identity_in(before), identity_of(config)))


def _config_in(directory: Path) -> dict[str, Any] | None:
    """Return the configuration that a search began with; None if the search has not begun.

    `config.yaml` is written before the first event, which contains the configuration too.
    """
    try:
        held = read_yaml((directory / CONFIG).read_text())
    except (OSError, ValueError):
        held = None
    if isinstance(held, dict):
        return held
    with suppress(JournalError):
        return next((start.config for start in of_kind(read_events(str(directory)), SearchStarted)), None)
    return None


def owner_of(directory: str) -> str | None:
    """Return the owner of a search's directory; None where no process owns it."""
    path = Path(directory, _LOCK)
    if not path.is_file():
        return None
    with path.open() as lock:  # which releases it at once
        return None if _try_lock(lock, fcntl.LOCK_SH) else lock.read().strip() or "unknown"


def _is_over_or_owned(directory: Path) -> bool:
    if champion_of(read_events(str(directory))) is not None:
        return True
    with _open_for_all(directory / _LOCK) as lock:
        return not _try_lock(lock)
