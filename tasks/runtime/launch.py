"""Run a worker: its command, its environment, its account of a failure, and its restart after a preemption."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tasks.config.schema import TrainingConfig
from tasks.contracts import WorkerFailure
from tasks.errors import WorkerError
from tasks.runtime.files import no_room
from tasks.runtime.machine import has_accelerator, num_threads
from tasks.runtime.pool import LAUNCHER, Request, current_pool
from tasks.runtime.processes import PYTHON, SUPERVISED, child_environment, wait_until
from tasks.runtime.spans import span

logger = logging.getLogger(__name__)

# Restarts of a preempted worker that makes no progress in between: 1 + 2 + 4 + 8 + 16 + 32 + 60 + 60 seconds.
MAX_RESTARTS = 8
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_LOG_TAIL = 15
# In place of the file that `accelerate config` may have left in the home.
_NO_CONFIG = str(Path(__file__).with_name("accelerate.yaml"))
# What a worker imports before its first request follows.
_SERVE = "tasks.workers.serve"
_SINGLE = (*PYTHON, "-m", _SERVE, "scoring")
OnPoll = Callable[[], None]
Progress = Callable[[], int]


@dataclass(frozen=True)
class _Job:
    """A module to run on a spec, and the worker that can: the command that starts it, and its environment."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    module: str
    spec: Path

    @contextmanager
    def start(self) -> Iterator[Request]:
        failure_path_of(self.spec).unlink(missing_ok=True)
        log = log_path_of(self.spec)
        with (
            current_pool() as pool,
            pool.request(self.command, self.environment, self.module, self.spec, log) as request,
        ):
            yield request


def start_pool(training: TrainingConfig) -> None:
    """Start the workers of the open pool before there is a request: one, and a group by `accelerate launch`.

    A group over several machines is not waited for here.
    """
    with current_pool() as pool:
        pool.start(_SINGLE, worker_environment(training.threads))
        if training.machines == 1:
            pool.start(*group_command(training))


def run_module(
    module: str,
    spec: Path,
    *,
    name: str,
    threads: int | None,
    on_poll: OnPoll | None = None,
    progress: Progress = lambda: 0,
) -> None:
    """Run `python -m module spec` to its end in a worker of the open pool, a process group of its own.

    Args:
        name: of the worker in messages.
        on_poll: called ten times a second while it runs.
        progress: a number that grows with the worker's finished work.
    Raises:
        WorkerError: it failed, and gives the worker's own account; or it was preempted again and again.
    """
    job = _Job(_SINGLE, worker_environment(threads), module, spec)
    _run(job, name, on_poll, progress)


def run_accelerate(
    module: str,
    spec: Path,
    *,
    name: str,
    training: TrainingConfig,
    on_poll: OnPoll | None = None,
    progress: Progress = lambda: 0,
) -> None:
    """Run `accelerate launch -m module spec` to its end, as `run_module`."""
    _run(_Job(*group_command(training), module, spec), name, on_poll, progress)


def group_command(training: TrainingConfig, place: Sequence[str] = ()) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the command that launches trainers, and their environment.

    Args:
        place: flags that give one of several machines its place.
    """
    environment = worker_environment(training.threads)
    is_on_cpu = training.device == "cpu" or not has_accelerator()
    # The launcher of several processes has no flag for the CPU, and starts gloo processes with this variable;
    # that of one process overwrites the variable, and has the flag (which with several processes starts one).
    environment["ACCELERATE_USE_CPU"] = str(is_on_cpu).lower()
    flags = ["--config_file", training.accelerate_config or _NO_CONFIG]
    if training.accelerate_config is None:
        num_processes = training.machines * training.num_processes
        flags += ["--num_machines", str(training.machines), "--mixed_precision", "no", "--dynamo_backend", "no"]
        flags += ["--num_processes", str(num_processes)]
        if num_processes > 1:
            flags += ["--multi_gpu"]
        elif is_on_cpu:
            flags += ["--cpu"]
        if training.machines == 1 < num_processes:
            flags += ["--main_process_port", "0"]
    return (*SUPERVISED, LAUNCHER, *place, *flags, "-m", _SERVE, "training.learner"), environment


@contextmanager
def beside(module: str, spec: Path, *, threads: int | None, on_poll: OnPoll) -> Iterator[None]:
    """Run `python -m module spec` while the block runs, and wait for its end after it.

    Its failure raises nothing, since whoever needs its work finds it missing. If the block fails, the worker is ended.
    """
    job = _Job(_SINGLE, worker_environment(threads), module, spec)
    with job.start() as request:
        yield
        with span(job.module):
            wait_until(lambda: request.is_over, on_poll)


def log_path_of(spec: Path) -> Path:
    """Return the path of a worker's output: `x.log` for `x_spec.json`."""
    return spec.with_name(f"{spec.stem.removesuffix('_spec')}.log")


def failure_path_of(spec: Path) -> Path:
    """Return the path of a worker's account of its failure: `x_failure.json` for `x_spec.json`."""
    return spec.with_name(f"{spec.stem.removesuffix('_spec')}_failure.json")


def worker_environment(threads: int | None) -> dict[str, str]:
    """Return the environment of a worker, which computes with `threads`."""
    count = str(num_threads(threads))
    return {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # as the driver numbers them, whose ids the locks go by
        **child_environment(),
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        # Two spinning threads ran 4-11 times slower than one on a shared machine.
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "PYTHONUNBUFFERED": "1",
    }


_STATE_AFTER = {"preempted": "checkpoint saved", "interrupted": "going on from its last checkpoint"}


def _run(job: _Job, name: str, on_poll: OnPoll | None, progress: Progress) -> None:
    """Run a worker to its end; start it again after each preemption, which costs no retry of the stage.

    The pause before a restart doubles; after progress it is the shortest again.
    """
    restarts, reached = 0, progress()
    while cause := _loss_of(job, name, on_poll):
        now = progress()
        restarts = 1 if now > reached else restarts + 1
        reached = max(reached, now)
        if restarts > MAX_RESTARTS:
            account = f"{cause} {restarts} times in a row, and made no progress in between"
            raise WorkerError(name, account, str(log_path_of(job.spec)), retryable=False)
        pause_s = min(_FIRST_PAUSE_S * 2 ** (restarts - 1), _LONGEST_PAUSE_S)
        logger.info(
            f"{name}: worker {cause}; {_STATE_AFTER[cause]}, restarting in {pause_s:g} s "
            f"(restart {restarts} of {MAX_RESTARTS})"
        )
        _pause(pause_s, on_poll)


def _pause(seconds: float, on_poll: OnPoll | None) -> None:
    ends_at = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= ends_at, on_poll)


def _loss_of(job: _Job, name: str, on_poll: OnPoll | None) -> str:
    """Run a worker's request once; return how it was lost, empty for not at all, or raise its failure.

    Of several machines, one whose loss another process reports is lost as a preempted one is.
    """
    with job.start() as request, span(job.module):
        wait_until(lambda: request.is_over, on_poll)
    if request.is_done:
        return ""
    failure = _failure_of(job.spec)
    if (failure is None and request.is_unread) or (failure is not None and failure.preempted):
        return "preempted"
    if request.party is not None and (failure.retryable if failure is not None else request.party.problem()):
        logger.info(f"{name}: {request.party.problem() or 'a machine is lost'}")
        return "interrupted"
    raise _error_of(job.spec, name, request.process.returncode, failure)


def _failure_of(spec: Path) -> WorkerFailure | None:
    path = failure_path_of(spec)
    if not path.is_file():
        return None
    account = path.read_text()
    if account:
        return WorkerFailure.model_validate_json(account)
    error = str(no_room(path, "the worker's own account of why it ended"))
    return WorkerFailure(cause="NoDiskSpaceError", error=error, rank=0, retryable=False, preempted=False, traceback="")


def _error_of(spec: Path, name: str, code: int, failure: WorkerFailure | None) -> WorkerError:
    log = str(log_path_of(spec))
    if failure is not None:
        return WorkerError(
            name, failure.error, log, retryable=failure.retryable, is_out_of_memory=failure.is_out_of_memory
        )
    lines = log_path_of(spec).read_text(errors="replace").splitlines()[-_LOG_TAIL:]
    tail = "\n".join(f"    {line}" for line in lines)
    return WorkerError(name, f"ended with code {code} and left no account of why\n{tail}", log, retryable=True)
