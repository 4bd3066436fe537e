"""Run the searches of a comparison or sweep: one after another in this process, or several at once in their own."""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.context import hydrated_context
from prefect.flows import Flow
from prefect.results import get_result_store

from tasks.comparison.grid import Arm
from tasks.config.schema import SearchConfig
from tasks.contracts import Value
from tasks.errors import MsftError
from tasks.report.terminal import fail, log_to_terminal
from tasks.runtime.files import make_folder
from tasks.runtime.machine import DEVICES, visible_gpus
from tasks.runtime.prefect_server import is_outage, run_flow, settings_for_children
from tasks.runtime.processes import Child, end_children, start_child

logger = logging.getLogger(__name__)

_POLL_S = 0.1


class Part(Value):
    """One search of a comparison, as it is given to the search's flow or process."""

    arm: Arm
    parent_run_id: str  # of the comparison in MLflow
    flow_run_id: str  # of the comparison in Prefect
    wait_s: float = 0.0  # for another process that still saves
    shares_gpus: bool = False  # with other searches


class Place(Value):
    """Where the searches of a comparison run.

    Attributes:
        parallel: searches at a time on this machine; none: one per GPU, or one on the CPU.
        deployment: of the flow `msft-search-file`, whose pool runs them instead.
        at_once: searches that are placed with the deployment at the same time; none: all.
    """

    parallel: int | None = None
    deployment: str = ""
    at_once: int | None = None


class Outcome(Value):
    """The end of an arm: `error` is empty if its search has its champion."""

    arm: Arm
    error: str = ""


def gpu_slots(config: SearchConfig, parallel: int | None, devices: Path = DEVICES) -> tuple[str | None, ...]:
    """Return CUDA_VISIBLE_DEVICES for each search that may run at the same time; None leaves it as it is.

    Each search gets its `training.num_processes` of the GPUs. By default as many searches run as get GPUs of their own;
    more than that share them, since a small model alone does not fill a GPU. Without GPUs they share the CPU, by
    default one at a time.
    """
    gpus = () if config.training.device == "cpu" else visible_gpus(devices)
    if not gpus:
        return (None,) * (parallel or 1)
    each = len(gpus) if config.training.accelerate_config is not None else config.training.num_processes
    groups = [",".join(gpus[i : i + each]) for i in range(0, len(gpus) - each + 1, each)]
    if not groups:
        return (None,)
    return tuple(groups[i % len(groups)] for i in range(parallel or len(groups)))


def run_in_turn(parts: Sequence[Part], search: Callable[[Part], Any]) -> list[Outcome]:
    """Call `search` for each part; one that fails does not stop the others."""
    outcomes = []
    for part in parts:
        logger.info(part.arm.label)
        try:
            search(part)
            outcomes.append(Outcome(arm=part.arm))
        except Exception as error:  # a search may fail by anything, and the others must go on
            if is_outage(error):
                raise  # the Prefect server is lost or fails: `run_flow` calls the comparison again when it answers
            outcomes.append(failed(part.arm, _text_of(error)))
    return outcomes


def run_in_parallel(
    parts: Sequence[Part], slots: Sequence[str | None], logs: Path, module: str = "flows.compare"
) -> list[Outcome]:
    """Run each part in a process of its own, as many at a time as there are slots, each with a log file in `logs`.

    A search that fails does not stop the others. An exception, such as that of a signal, ends all of them; they save
    their state first.
    """
    make_folder(logs)
    free, waiting = list(slots), list(parts)
    running: list[tuple[Arm, Path, str | None, Child]] = []
    outcomes = []
    try:
        while waiting or running:
            while free and waiting:
                part, slot = waiting.pop(0), free.pop(0)
                logger.info(part.arm.label)
                log = logs / f"{part.arm.config.name}-seed-{part.arm.seed}.log"
                is_shared = slot is not None and slots.count(slot) > 1
                given = _input_of(part.model_copy(update={"shares_gpus": is_shared}))
                gpus = {} if slot is None else {"CUDA_VISIBLE_DEVICES": slot}
                child = start_child(module, given, log, settings_for_children() | gpus)
                running.append((part.arm, log, slot, child))
            time.sleep(_POLL_S)
            for arm, log, slot, child in [entry for entry in running if entry[-1].code is not None]:
                running.remove((arm, log, slot, child))
                free.append(slot)
                outcomes.append(_outcome_of(arm, child, log))
    except BaseException:
        end_children([child for *_, child in running])
        raise
    return outcomes


def _input_of(part: Part) -> str:
    given = part.model_dump(mode="json")
    given["arm"]["config"]["tracking"]["uri"] = part.arm.config.tracking.uri  # a dump hides its password
    return json.dumps(given)


def _outcome_of(arm: Arm, child: Child, log: Path) -> Outcome:
    if child.code == 0:
        logger.info(f"{arm.label}: done")
        return Outcome(arm=arm)
    try:
        error = str(json.loads(child.answer())["error"])
    except (ValueError, KeyError, TypeError):  # it was killed
        error = f"its process ended with code {child.code}; its log is {log}"
    return failed(arm, error)


def failed(arm: Arm, error: str) -> Outcome:
    """Log an error and return it as the arm's outcome."""
    logger.error(f"{arm.label}: {error}")
    return Outcome(arm=arm, error=error)


def _text_of(error: Exception) -> str:
    """Return an error as it is reported: with its class, unless it is one of ours."""
    return str(error) if isinstance(error, MsftError) else f"{type(error).__name__}: {error}"


def run_as_child(search: Callable[[Part], Any]) -> None:
    """Run the part given on stdin and exit: 0, or 1 with `{"error": …}` on stdout; all else goes to stderr."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    log_to_terminal(as_json=True)
    part = Part.model_validate_json(sys.stdin.read())
    try:
        run_flow(lambda: search(part), part.arm.config.output_root)
    except Exception as error:  # the process boundary: the comparison is told, and the log has the traceback
        fail(_text_of(error))
        if not isinstance(error, MsftError):
            traceback.print_exc()
        sys.exit(1)


@contextmanager
def inside_flow_run(flow: Flow[..., Any], flow_run_id: str) -> Iterator[None]:
    """Make flows that are called in the block subflows of a flow run in another process."""
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID(flow_run_id))
    context = {"flow": flow, "flow_run": run, "parameters": {}, "persist_result": False}
    with hydrated_context({"flow_run_context": {**context, "result_store": get_result_store()}}):
        yield
