"""Check what a search depends on: versions, devices, disk, servers; and what interrupted searches left behind."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sqlite3
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Literal

import httpx
import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from prefect.settings import PREFECT_API_URL

from tasks.commands.flow_runs import RunningFlow, running_flows
from tasks.config.schema import SearchConfig
from tasks.contracts import Value
from tasks.errors import MsftError
from tasks.record.status import SearchStatus, command_for, list_searches
from tasks.redaction import without_password
from tasks.registry import runs as tracking
from tasks.runtime.processes import capture

DISTRIBUTION = "msft-search"
INSTALL = "pip install -c constraints.txt -e ."
_LITTLE_BYTES, _TOO_FEW_BYTES = 20 * 10**9, 2 * 10**9
_TIMEOUT_S = 5.0
_TORCH_S = 180.0
_WORKERS = "tasks.workers."
_CRASHED = '{"state": {"type": "CRASHED"}, "force": true}'


class Check(Value):
    """Result of one check; `fix` is the command or change that fixes it, empty if the verdict is ok."""

    name: str
    verdict: Literal["ok", "warn", "fail"]
    finding: str
    fix: str = ""


def diagnose(config: SearchConfig | None, output_root: str, tracking_uri: str | None) -> list[Check]:
    """Run all checks.

    Args:
        config: checks its output root and MLflow; None: the two below.
        output_root: folder of the searches.
        tracking_uri: address of MLflow; None: the SQLite file in `output_root`.
    """
    root = config.output_root if config is not None else output_root
    own = config.tracking.uri if config is not None else tracking_uri
    uri = own or f"sqlite:///{Path(root, 'mlflow.db').resolve()}"
    searches = list_searches(root)
    store = check_tracking(uri)
    prefect = check_prefect(PREFECT_API_URL.value())
    flows = running_flows() if prefect.verdict == "ok" and PREFECT_API_URL.value() else ()
    held = _run_statuses(uri) if store.verdict == "ok" and searches else {}
    return [
        check_python(platform.python_version(), metadata(DISTRIBUTION)["Requires-Python"]),
        *check_packages(requires(DISTRIBUTION) or []),
        check_devices(config),
        check_disk(root, shutil.disk_usage(_existing(Path(root))).free),
        prefect,
        store,
        *check_searches(searches, held),
        *check_flow_runs(flows, searches, root),
        *check_workers(psutil.process_iter()),
    ]


def check_python(found: str, wanted: str) -> Check:
    """Check Python's version against the range of the package."""
    if SpecifierSet(wanted).contains(found, prereleases=True):
        return Check(name="python", verdict="ok", finding=found)
    return Check(
        name="python",
        verdict="fail",
        finding=f"{found}, expected {wanted}",
        fix="python3.11 -m venv .venv, and install there",
    )


def check_packages(requirements: Iterable[str]) -> list[Check]:
    """Check each installed package against the range in pyproject.toml; one line for all that are in range."""
    wrong, fitting = [], 0
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = _version_of(requirement.name)
        if found is not None and requirement.specifier.contains(found, prereleases=True):
            fitting += 1
            continue
        finding = f"{requirement.name} {found or 'is not installed'}, expected {requirement.specifier}"
        wrong.append(Check(name="packages", verdict="fail", finding=finding, fix=INSTALL))
    return [*wrong, Check(name="packages", verdict="ok", finding=f"{fitting} in their ranges")]


def _version_of(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_devices(config: SearchConfig | None) -> Check:
    """List torch's devices, in a separate process; fail if the configuration trains on more than there are."""
    told = capture([sys.executable, "-m", "tasks.workers.describe_devices"], _TORCH_S)
    if not told:
        fix = f"python -c 'import torch' shows the cause; {INSTALL}"
        return Check(name="torch", verdict="fail", finding="torch cannot be imported", fix=fix)
    seen = json.loads(told)
    names = ", ".join(seen["devices"]) or f"no accelerator; {os.cpu_count()} CPU cores"
    finding = f"torch {seen['torch']}: {names}"
    wanted = config.training.num_processes if config is not None and config.training.device == "auto" else 1
    if seen["devices"] and wanted > len(seen["devices"]):
        fix = f"--set training.num_processes={len(seen['devices'])}"
        finding += f"; training.num_processes = {wanted}"
        return Check(name="torch", verdict="fail", finding=finding, fix=fix)
    return Check(name="torch", verdict="ok", finding=finding)


def check_disk(output_root: str, free: int) -> Check:
    """Check the free disk space for checkpoints."""
    finding = f"{free / 1e9:,.1f} GB free for {output_root}"
    fix = "free some space, or set output_root to another disk; msft plan CONFIG prints how much a search needs"
    if free < _TOO_FEW_BYTES:
        return Check(name="disk", verdict="fail", finding=finding, fix=fix)
    if free < _LITTLE_BYTES:
        return Check(name="disk", verdict="warn", finding=finding, fix=fix)
    return Check(name="disk", verdict="ok", finding=finding)


def check_prefect(url: str | None) -> Check:
    """Check the health of Prefect's server if one is configured."""
    if not url:
        finding = "PREFECT_API_URL is not set; each search starts its own server"
        return Check(name="prefect", verdict="ok", finding=finding)
    cause = _unhealthy(f"{url}/health")
    if cause is None:
        return Check(name="prefect", verdict="ok", finding=f"{without_password(url)} answers")
    fix = "prefect server start, or unset PREFECT_API_URL so that each search starts its own"
    return Check(name="prefect", verdict="fail", finding=f"{without_password(url)}: {cause}", fix=fix)


def check_tracking(uri: str) -> Check:
    """Check MLflow's server or its SQLite file; other databases are checked when a search starts."""
    shown = without_password(uri)
    if uri.startswith(("http:", "https:")):
        cause = _unhealthy(f"{uri.rstrip('/')}/health")
        fix = "start it (mlflow server), or set tracking.uri"
    elif uri.startswith("sqlite:///"):
        path = Path(uri.removeprefix("sqlite:///"))
        if not path.exists():
            return Check(name="mlflow", verdict="ok", finding=f"{shown}: created by the first search")
        cause = _unreadable(path)
        fix = f"restore {path} from a backup"
    else:
        return Check(name="mlflow", verdict="ok", finding=f"{shown}: checked when a search starts")
    if cause is None:
        return Check(name="mlflow", verdict="ok", finding=f"{shown} answers")
    return Check(name="mlflow", verdict="fail", finding=f"{shown}: {cause}", fix=fix)


def check_searches(searches: Sequence[SearchStatus], run_statuses: dict[str, str]) -> list[Check]:
    """Report unfinished searches that no process runs, and searches that MLflow shows as RUNNING by mistake.

    Args:
        searches: all searches of the folder.
        run_statuses: status of each search's run in MLflow, by search id.
    """
    found = []
    for one in searches:
        shown = run_statuses.get(one.search.rpartition("-")[2])
        if one.condition == "unreadable":
            found.append(
                Check(
                    name="searches",
                    verdict="fail",
                    finding=one.problem,
                    fix="restore journal.jsonl from the artifacts of its MLflow run",
                )
            )
        elif one.condition == "resumable":
            zombie = ", while MLflow shows it as RUNNING" if shown == "RUNNING" else ""
            finding = f"{one.search}: interrupted in round {one.round}{zombie}"
            found.append(Check(name="searches", verdict="warn", finding=finding, fix=command_for(one)))
        elif one.condition == "finished" and shown == "RUNNING":
            finding = f"{one.search}: finished, while MLflow shows it as RUNNING"
            found.append(Check(name="searches", verdict="warn", finding=finding, fix=command_for(one)))
        elif one.condition == "not begun":
            finding = f"{one.search}: ended during data preparation"
            fix = f"run its command again, or rm -r {one.directory}"
            found.append(Check(name="searches", verdict="warn", finding=finding, fix=fix))
    running = sum(one.condition == "running" for one in searches)
    return found or [
        Check(name="searches", verdict="ok", finding=f"{len(searches)} found, {running} running, none interrupted")
    ]


def check_flow_runs(
    flows: Sequence[RunningFlow] | None, searches: Sequence[SearchStatus], output_root: str
) -> list[Check]:
    """Report flow runs that Prefect shows as RUNNING and that own none of the searches.

    The owner of a search names its flow run. The searches of another machine's flow run may be in another folder, so
    this is a warning.
    """
    if flows is None:
        fix = "set PREFECT_API_AUTH_STRING or PREFECT_API_KEY, as for its workers"
        finding = "the Prefect server denies access to its runs"
        return [Check(name="flow runs", verdict="warn", finding=finding, fix=fix)]
    owners = [one.owner for one in searches if one.owner]
    left = [flow for flow in flows if not any(owner.endswith(flow.id) for owner in owners)]
    here = f"it owns no search in {output_root} (lost, unless its search is on another machine or in another folder)"
    return [
        Check(
            name="flow runs",
            verdict="warn",
            finding=f"{flow.name}: Prefect shows it as RUNNING{_since(flow)}, but {here}",
            # `prefect flow-run cancel` would leave it CANCELLING, as no process is there to end.
            fix=f"prefect api POST /flow_runs/{flow.id}/set_state --data '{_CRASHED}'",
        )
        for flow in left
    ]


def _since(flow: RunningFlow) -> str:
    return f" since {flow.since:%Y-%m-%dT%H:%M:%SZ}" if flow.since is not None else ""


def check_workers(processes: Iterable[psutil.Process]) -> list[Check]:
    """Report worker processes whose search has ended; unless they hang, they end by themselves within seconds."""
    left = [f"process {process.pid}" for process in processes if _is_orphan(process)]
    if not left:
        return [Check(name="workers", verdict="ok", finding="none without a search")]
    fix = f"kill {' '.join(name.removeprefix('process ') for name in left)}"
    return [Check(name="workers", verdict="warn", finding=f"without a search: {', '.join(left)}", fix=fix)]


def _is_orphan(process: psutil.Process) -> bool:
    try:
        is_worker = any(part.startswith(_WORKERS) for part in process.cmdline())
        owner = process.environ().get("MSFT_OWNER_PID") if is_worker else None
    except psutil.Error:  # ended, or of another user
        return False
    return owner is not None and not psutil.pid_exists(int(owner))


def _run_statuses(uri: str) -> dict[str, str]:
    try:
        return tracking.run_statuses(uri)
    except MsftError:  # the check of the store reports it, or a search will
        return {}


def _unhealthy(url: str) -> str | None:
    try:
        httpx.get(url, timeout=_TIMEOUT_S).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return str(error) or type(error).__name__
    return None


def _unreadable(path: Path) -> str | None:
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as store:
            store.execute("select count(*) from runs").fetchone()
    except sqlite3.Error as error:
        return str(error)
    return None


def _existing(path: Path) -> Path:
    return next(parent for parent in (path.resolve(), *path.resolve().parents) if parent.exists())
