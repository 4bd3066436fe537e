"""Check what a search depends on: versions, devices, disk, servers; and what interrupted searches left behind."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Literal

import httpx
import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL

from tasks.config.schema import SearchConfig
from tasks.contracts import Value
from tasks.errors import MsftError
from tasks.record.status import SearchStatus, command_for, list_searches
from tasks.redaction import without_password
from tasks.registry import runs as tracking
from tasks.report.messages import tell
from tasks.runtime.processes import capture

DISTRIBUTION = "msft-search"
INSTALL = "pip install -c constraints.txt -e ."
_LITTLE_BYTES, _TOO_FEW_BYTES = 20 * 10**9, 2 * 10**9
_TIMEOUT_S, _TORCH_S = 5.0, 180.0
# Names of all flows without a parent.
FLOWS = ("msft-search", "msft-search-file", "msft-compare", "msft-compare-file")
_COLORS = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_CRASHED = '{"state": {"type": "CRASHED"}, "force": true}'


class Check(Value):
    """Result of one check; `fix` is the command or change that fixes it, empty if the verdict is ok."""

    name: str
    verdict: Literal["ok", "warn", "fail"]
    finding: str
    fix: str = ""


def _ok(name: str, finding: str) -> Check:
    return Check(name=name, verdict="ok", finding=finding)


def _warn(name: str, finding: str, fix: str) -> Check:
    return Check(name=name, verdict="warn", finding=finding, fix=fix)


def _fail(name: str, finding: str, fix: str) -> Check:
    return Check(name=name, verdict="fail", finding=finding, fix=fix)


class RunningFlow(Value):
    """A flow run that Prefect shows as RUNNING, and the time since when."""

    id: str
    name: str
    since: datetime | None


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
    flows = _running_flows() if prefect.verdict == "ok" and PREFECT_API_URL.value() else ()
    held = _run_statuses(uri) if store.verdict == "ok" and searches else {}
    existing = next(path for path in (Path(root).resolve(), *Path(root).resolve().parents) if path.exists())
    return [
        check_python(platform.python_version(), metadata(DISTRIBUTION)["Requires-Python"]),
        *check_packages(requires(DISTRIBUTION) or []),
        check_devices(config),
        check_disk(root, shutil.disk_usage(existing).free),
        prefect,
        store,
        *check_searches(searches, held),
        *check_flow_runs(flows, searches, root),
        *check_workers(psutil.process_iter()),
    ]


def show_checks(checks: Sequence[Check]) -> None:
    """Tell each check, and the fix beneath a failed one."""
    for check in checks:
        tell((f"{check.verdict:4}", _COLORS[check.verdict]), f"  {check.name:9} {check.finding}")
        if check.fix:
            tell(f"                fix: {check.fix}")


def check_python(found: str, wanted: str) -> Check:
    """Check Python's version against the range of the package."""
    if SpecifierSet(wanted).contains(found, prereleases=True):
        return _ok("python", found)
    return _fail("python", f"{found}, expected {wanted}", "python3.11 -m venv .venv, and install there")


def check_packages(requirements: Iterable[str]) -> list[Check]:
    """Check each installed package against the range in pyproject.toml; one line for all that are in range."""
    wrong, fitting = [], 0
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            found = ""
        if found and requirement.specifier.contains(found, prereleases=True):
            fitting += 1
            continue
        finding = f"{requirement.name} {found or 'is not installed'}, expected {requirement.specifier}"
        wrong.append(_fail("packages", finding, INSTALL))
    return [*wrong, _ok("packages", f"{fitting} in their ranges")]


def check_devices(config: SearchConfig | None) -> Check:
    """List torch's devices, in a separate process; fail if the configuration trains on more than there are."""
    told = capture([sys.executable, "-m", "tasks.workers.describe_devices"], _TORCH_S)
    if not told:
        return _fail("torch", "torch cannot be imported", f"python -c 'import torch' shows the cause; {INSTALL}")
    seen = json.loads(told)
    names = ", ".join(seen["devices"]) or f"no accelerator; {os.cpu_count()} CPU cores"
    finding = f"torch {seen['torch']}: {names}"
    wanted = config.training.num_processes if config is not None and config.training.device == "auto" else 1
    if seen["devices"] and wanted > len(seen["devices"]):
        fix = f"--set training.num_processes={len(seen['devices'])}"
        return _fail("torch", f"{finding}; training.num_processes = {wanted}", fix)
    return _ok("torch", finding)


def check_disk(output_root: str, free: int) -> Check:
    """Check the free disk space for checkpoints."""
    finding = f"{free / 1e9:,.1f} GB free for {output_root}"
    if free >= _LITTLE_BYTES:
        return _ok("disk", finding)
    fix = "free some space, or set output_root to another disk; msft plan CONFIG prints how much a search needs"
    return _fail("disk", finding, fix) if free < _TOO_FEW_BYTES else _warn("disk", finding, fix)


def check_prefect(url: str | None) -> Check:
    """Check the health of Prefect's server if one is configured."""
    if not url:
        return _ok("prefect", "PREFECT_API_URL is not set; each search starts its own server")
    cause = _unhealthy(f"{url}/health")
    if cause is None:
        return _ok("prefect", f"{without_password(url)} answers")
    fix = "prefect server start, or unset PREFECT_API_URL so that each search starts its own"
    return _fail("prefect", f"{without_password(url)}: {cause}", fix)


def check_tracking(uri: str) -> Check:
    """Check MLflow's server or its SQLite file; other databases are checked when a search starts."""
    shown = without_password(uri)
    if uri.startswith(("http:", "https:")):
        cause = _unhealthy(f"{uri.rstrip('/')}/health")
        fix = "start it (mlflow server), or set tracking.uri"
    elif uri.startswith("sqlite:///"):
        path = Path(uri.removeprefix("sqlite:///"))
        if not path.exists():
            return _ok("mlflow", f"{shown}: created by the first search")
        cause = _unreadable(path)
        fix = f"restore {path} from a backup"
    else:
        return _ok("mlflow", f"{shown}: checked when a search starts")
    return _ok("mlflow", f"{shown} answers") if cause is None else _fail("mlflow", f"{shown}: {cause}", fix)


def check_searches(searches: Sequence[SearchStatus], run_statuses: dict[str, str]) -> list[Check]:
    """Report unfinished searches that no process runs, and searches that MLflow shows as RUNNING by mistake.

    `run_statuses` has the status of each search's run in MLflow, by search id.
    """
    running = sum(one.condition == "running" for one in searches)
    found = [check for one in searches for check in _check_search(one, run_statuses)]
    return found or [_ok("searches", f"{len(searches)} found, {running} running, none interrupted")]


def _check_search(one: SearchStatus, run_statuses: dict[str, str]) -> Iterator[Check]:
    is_running = run_statuses.get(one.search.rpartition("-")[2]) == "RUNNING"
    zombie = ", while MLflow shows it as RUNNING" if is_running else ""
    if one.condition == "unreadable":
        yield _fail("searches", one.problem, "restore journal.jsonl from the artifacts of its MLflow run")
    elif one.condition == "resumable":
        yield _warn("searches", f"{one.search}: interrupted in round {one.round}{zombie}", command_for(one))
    elif one.condition == "finished" and is_running:
        yield _warn("searches", f"{one.search}: finished{zombie}", command_for(one))
    elif one.condition == "not begun":
        fix = f"run its command again, or rm -r {one.directory}"
        yield _warn("searches", f"{one.search}: ended during data preparation", fix)


def check_flow_runs(
    flows: Sequence[RunningFlow] | None, searches: Sequence[SearchStatus], output_root: str
) -> list[Check]:
    """Report flow runs that Prefect shows as RUNNING and that own none of the searches.

    The owner of a search names its flow run. The searches of another machine's flow run may be in another folder, so
    this is a warning.
    """
    if flows is None:
        fix = "set PREFECT_API_AUTH_STRING or PREFECT_API_KEY, as for its workers"
        return [_warn("flow runs", "the Prefect server denies access to its runs", fix)]
    here = f"it owns no search in {output_root} (lost, unless its search is on another machine or in another folder)"
    found = []
    for flow in flows:
        if not any(one.owner and one.owner.endswith(flow.id) for one in searches):
            since = f" since {flow.since:%Y-%m-%dT%H:%M:%SZ}" if flow.since is not None else ""
            # `prefect flow-run cancel` would leave it CANCELLING, as no process is there to end.
            fix = f"prefect api POST /flow_runs/{flow.id}/set_state --data '{_CRASHED}'"
            found.append(_warn("flow runs", f"{flow.name}: Prefect shows it as RUNNING{since}, but {here}", fix))
    return found


def _running_flows() -> list[RunningFlow] | None:
    """Return the running flow runs without a parent on the server of PREFECT_API_URL; None if it denies access."""
    ours = FlowFilter.model_validate({"name": {"any_": list(FLOWS)}})
    running = {"state": {"type": {"any_": ["RUNNING"]}}, "parent_task_run_id": {"is_null_": True}}
    with get_client(sync_client=True) as client:
        try:
            runs = client.read_flow_runs(flow_filter=ours, flow_run_filter=FlowRunFilter.model_validate(running))
        except PrefectHTTPStatusError:  # healthy, but a password is required and not set
            return None
    return [RunningFlow(id=str(run.id), name=run.name, since=run.start_time) for run in runs]


def check_workers(processes: Iterable[psutil.Process]) -> list[Check]:
    """Report worker processes whose search has ended; unless they hang, they end by themselves within seconds."""
    left = [process.pid for process in processes if _is_orphan(process)]
    if not left:
        return [_ok("workers", "none without a search")]
    finding = f"without a search: {', '.join(f'process {pid}' for pid in left)}"
    return [_warn("workers", finding, f"kill {' '.join(map(str, left))}")]


def _is_orphan(process: psutil.Process) -> bool:
    try:
        is_worker = any(part.startswith("tasks.workers.") for part in process.cmdline())
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
