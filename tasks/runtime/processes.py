"""Start worker processes, watch them, and end them; the only module that does."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tasks.config.schema import TrainingConfig
from tasks.contracts import WorkerFailure
from tasks.errors import WorkerError
from tasks.runtime.files import no_room
from tasks.runtime.gpu_slots import current_lane

logger = logging.getLogger(__name__)

# A worker finishes its optimizer step and saves a checkpoint after SIGTERM; then the group is killed.
GRACE_S = 60.0
_SERVICE_GRACE_S = 5.0
_POLL_S = 0.1
_RESTART_S = 1.0
_LOG_TAIL = 15
# Runs a module, and ends it when this process is gone.
_LIFELINE = "tasks.workers.supervisor"
_TIED = (sys.executable, "-m", _LIFELINE)


def run_module(
    module: str, spec: Path, *, name: str, threads: int | None, on_poll: Callable[[], None] | None = None
) -> None:
    """Run `python -m module spec` to its end in a process group of its own.

    Raises:
        WorkerError: it failed; the text is the worker's own account.
    """
    _run([*_TIED, module, str(spec)], spec, name, _environment(threads), on_poll)


def run_accelerate(
    module: str, spec: Path, *, name: str, training: TrainingConfig, on_poll: Callable[[], None] | None = None
) -> None:
    """Run `accelerate launch -m module spec` to its end in a process group of its own.

    Raises:
        WorkerError: it failed; the text is the worker's own account.
    """
    environment = _environment(training.threads)
    is_on_cpu = training.device == "cpu" or not has_accelerator()
    # The launcher of several processes has no flag for the CPU, and starts gloo processes with this variable;
    # that of one process overwrites the variable, and has the flag (which with several starts one, facts C1).
    environment["ACCELERATE_USE_CPU"] = str(is_on_cpu).lower()
    flags = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    if training.accelerate_config is not None:
        flags = ["--config_file", training.accelerate_config]
    elif training.num_processes > 1:
        flags += ["--multi_gpu", "--num_processes", str(training.num_processes), "--main_process_port", "0"]
    else:
        flags += ["--num_processes", "1", *(["--cpu"] if is_on_cpu else [])]
    command = [*_TIED, "accelerate.commands.launch", *flags, "-m", _LIFELINE, module, str(spec)]
    _run(command, spec, name, environment, on_poll)


def log_path_of(spec: Path) -> Path:
    """Return where the worker of `spec` writes its output: `x_spec.json` gives `x.log`."""
    return spec.with_name(f"{spec.stem.removesuffix('_spec')}.log")


def failure_path_of(spec: Path) -> Path:
    """Return where the worker of `spec` says why it failed: `x_spec.json` gives `x_failure.json`."""
    return spec.with_name(f"{spec.stem.removesuffix('_spec')}_failure.json")


def _environment(threads: int | None) -> dict[str, str]:
    count = str(num_threads(threads))
    lane = current_lane()
    return {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # as the driver numbers them, whose ids the locks go by
        **os.environ,
        **({"CUDA_VISIBLE_DEVICES": lane.gpus} if lane is not None and lane.gpus is not None else {}),
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        # Two spinning threads ran 4-11 times slower than one on a shared machine (facts.md, 8).
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "PYTHONUNBUFFERED": "1",
        # A worker whose owner is gone ends by itself (tasks/workers/supervisor.py).
        "MSFT_OWNER_PID": str(os.getpid()),
    }


def num_threads(threads: int | None) -> int:
    """Return how many threads a worker computes with: as configured, or one a core."""
    return threads or os.cpu_count() or 1


def has_accelerator(devices: Path = Path("/dev")) -> bool:
    """Say whether a worker sees a GPU, without importing torch here; a container may hold any of a machine's."""
    return bool(visible_gpus(devices)) or any((devices / node).exists() for node in ("kfd", "dxg"))


def visible_gpus(devices: Path) -> tuple[str, ...]:
    """Return the names of the NVIDIA GPUs under `devices` that CUDA_VISIBLE_DEVICES lets a worker see.

    A container may have the machine's fourth alone, as nvidia3: CUDA counts what is there.
    """
    found = [str(number) for number, _ in enumerate(devices.glob("nvidia[0-9]*"))]
    lane = current_lane()
    chosen = lane.gpus if lane is not None and lane.gpus else os.environ.get("CUDA_VISIBLE_DEVICES")
    if not found or chosen is None:
        return tuple(found)
    return tuple(name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1"))


@contextmanager
def beside(module: str, spec: Path, *, threads: int | None, on_poll: Callable[[], None]) -> Iterator[None]:
    """Run `python -m module spec` while the block runs, and wait for its end after it.

    Its failure raises nothing, since whoever needs its work finds it missing; if the block fails, it is ended.
    """
    process = _start([*_TIED, module, str(spec)], spec, _environment(threads))
    try:
        yield
        _wait(process, on_poll)
    except BaseException:
        _end_group(process)
        raise


@contextmanager
def keep_running(arguments: Sequence[str], log: Path, extra: Mapping[str, str]) -> Iterator[list[int]]:
    """Run `python -m arguments…` while the block runs, and start it again when it dies; give the exit codes so far."""
    environment = {**_environment(1), **extra}
    is_over = threading.Event()
    codes: list[int] = []

    def watch() -> None:
        process = _spawn([*_TIED, *arguments], log, environment)
        while not is_over.wait(_POLL_S):
            if process.poll() is not None and not is_over.wait(_RESTART_S):
                codes.append(process.returncode)
                process = _spawn([*_TIED, *arguments], log, environment)
        _end_group(process, _SERVICE_GRACE_S)

    thread = threading.Thread(target=watch, name="keep-running")
    thread.start()
    try:
        yield codes
    finally:
        is_over.set()
        thread.join()


def _start(command: list[str], spec: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    failure_path_of(spec).unlink(missing_ok=True)
    return _spawn(command, log_path_of(spec), environment)


def _spawn(command: list[str], log_path: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    # Output goes to a file: an inherited pipe would hide a crash of the flow until the worker ends (facts, A4).
    with log_path.open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=dict(environment),
        )


def _run(
    command: list[str],
    spec: Path,
    name: str,
    environment: Mapping[str, str],
    on_poll: Callable[[], None] | None,
) -> None:
    """Run a worker until it has done its work; one that was told to end has saved, and is started again.

    So a preemption costs no retry of the task, however many there are.
    """
    while True:
        process = _start(command, spec, environment)
        try:
            _wait(process, on_poll)
        except BaseException:  # Prefect's TerminationSignal is a BaseException
            _end_group(process)
            raise
        if process.returncode == 0:
            return
        _end_group(process)  # a launcher that was killed leaves its workers behind
        failure = _failure_of(spec)
        if failure is None or not failure.preempted:
            raise _error_of(spec, name, process.returncode, failure)
        logger.info(f"{name}: the worker was told to end and saved what it had; it is started again")


def _wait(process: subprocess.Popen[bytes], on_poll: Callable[[], None] | None) -> None:
    lane = current_lane()
    while process.poll() is None:
        if lane is not None and lane.is_over.is_set():
            raise KeyboardInterrupt
        if on_poll is not None:
            on_poll()
        time.sleep(_POLL_S)
    if on_poll is not None:
        on_poll()


def _end_group(process: subprocess.Popen[bytes], grace_s: float = GRACE_S) -> None:
    """Ask the whole group to end, wait the stated grace, then kill it."""
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + wait_s
        while _group_lives(process) and time.monotonic() < deadline:
            time.sleep(_POLL_S)


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _failure_of(spec: Path) -> WorkerFailure | None:
    path = failure_path_of(spec)
    if not path.is_file():
        return None
    account = path.read_text()
    if account:
        return WorkerFailure.model_validate_json(account)
    error = no_room(path, "the worker's own account of why it ended")
    return WorkerFailure(
        cause=type(error).__name__, error=str(error), rank=0, retryable=False, preempted=False, traceback=""
    )


def _error_of(spec: Path, name: str, code: int, failure: WorkerFailure | None) -> WorkerError:
    log = str(log_path_of(spec))
    if failure is not None:
        return WorkerError(
            name,
            failure.error,
            log,
            retryable=failure.retryable,
            is_out_of_memory=failure.is_out_of_memory,
        )
    lines = log_path_of(spec).read_text(errors="replace").splitlines()[-_LOG_TAIL:]
    tail = "\n".join(f"    {line}" for line in lines)
    return WorkerError(
        name, f"ended with code {code} and left no account of why\n{tail}", log, retryable=True
    )


def capture(command: list[str], timeout_s: float = 10.0) -> str:
    """Return what a short command prints, stripped; empty where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def run_prefect(arguments: Sequence[str], extra: Mapping[str, str]) -> tuple[int, str]:
    """Run Prefect's own command to its end; return its exit code and all that it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **extra},
        check=False,
    )
    return done.returncode, done.stdout.strip()
