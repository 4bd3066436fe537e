"""Register deployments with a Prefect server: work pool, deployment, schedules, and the automation for lost runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import httpx
import yaml
from prefect.automations import Automation
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import PREFECT_API_URL
from prefect.utilities.asyncutils import run_coro_as_sync
from prefect.utilities.templating import apply_values
from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type

from tasks.errors import DeploymentError
from tasks.redaction import without_passwords
from tasks.runtime.processes import run_prefect

Schedule = Literal["off", "queue", "skip"]
_STRATEGIES = {"queue": "ENQUEUE", "skip": "CANCEL_NEW"}
# Three missed heartbeats of 30 s; measured: 87 s from the loss of a machine to AwaitingRetry.
LOST_AFTER_S = 90
DEFAULT = "search-process"
_FOLDER = Path(__file__).resolve().parents[2] / "deployments"
AUTOMATION = _FOLDER / "automation.yaml"  # unless there is one beside the prefect.yaml


def deploy(
    names: Sequence[str],
    file: str | None,
    placeholders: Mapping[str, str | None],
    lost_after_s: int,
    schedule: Schedule | None = None,
) -> Iterator[str]:
    """Register each named deployment of `file` with its work pool and automation; yield a line for each step.

    Idempotent: a second call updates what is registered, and adds nothing.

    Args:
        names: deployments of the file; empty: `DEFAULT`.
        file: a prefect.yaml; None: the repository's.
        placeholders: values of the `{{ $NAME }}` in the file.
        lost_after_s: seconds without a heartbeat after which a run is given to another worker.
        schedule: turn schedules off, or on with overlapping runs queued or skipped; None: keep all as it is.
    Raises:
        DeploymentError: no server answers, the file holds no such deployment, or Prefect refuses it.
    """
    path = Path(file) if file else _FOLDER / "prefect.yaml"
    definition = _read(path)
    pools = (definition.get("definitions") or {}).get("work_pools") or {}
    chosen = [_find(definition, path, name, placeholders) for name in names or [DEFAULT]]
    if schedule is not None:
        _require_schedule(chosen, path)
    with _client() as client:
        for entry in chosen:
            pool = entry["work_pool"]["name"]
            yield _ensure_pool(client, path, pool, pools.get(pool))
            full_name = f"{load_flow_from_entrypoint(entry['entrypoint']).name}/{entry['name']}"
            before = _active_schedules(client, full_name)
            _register(entry, path, {key: value for key, value in placeholders.items() if value}, schedule)
            yield f"deployment {full_name}: registered with pool {pool}; {_overlap_of(client, full_name)}"
            wanted = None if schedule is None else schedule != "off"
            yield from _settle_schedules(client, full_name, before, wanted)
            yield _ensure_automation(client, path, full_name, lost_after_s)
        yield from _advice(client, [entry["work_pool"]["name"] for entry in chosen], full_name)


def _read(path: Path) -> dict[str, Any]:
    try:
        definition = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DeploymentError(
            str(path),
            got="no such file",
            expected="the prefect.yaml with the deployments",
            fix="name it with --file; the repository's is in deployments/",
        ) from None
    except yaml.YAMLError as error:
        got = " ".join(str(error).split())
        raise DeploymentError(str(path), got=got, expected="YAML", fix="fix the file") from None
    if not isinstance(definition, dict):
        got = type(definition).__name__
        raise DeploymentError(str(path), got=got, expected="a mapping of keys to values", fix="fix the file")
    return definition


def _find(
    definition: Mapping[str, Any], path: Path, name: str, placeholders: Mapping[str, str | None]
) -> Mapping[str, Any]:
    """Return the deployment of this name; all of its placeholders have a value, and it shows no password."""
    entries: dict[str, Mapping[str, Any]] = {
        entry["name"]: entry
        for entry in definition.get("deployments") or []
        if {"name", "entrypoint", "work_pool"} <= entry.keys()
    }
    where = f"deployment {name!r}"
    if name not in entries:
        raise DeploymentError(
            where,
            got=f"not in {path}",
            expected=f"one of {', '.join(entries)}; each has a name, an entrypoint and a work_pool",
            fix="name one of them",
        )
    shown = str(entries[name].get("parameters", ""))
    if without_passwords(shown) != shown:
        raise DeploymentError(
            where,
            got=f"a password among its parameters: {without_passwords(shown)}",
            expected="none, since Prefect stores and shows them",
            fix="set it in the worker's environment (MLFLOW_TRACKING_PASSWORD, PGPASSWORD) or in the YAML file",
        )
    for key, value in placeholders.items():
        if not value and f"${key}" in str(entries[name]):
            fix = f"set {key}, or see `msft deploy --help`"
            raise DeploymentError(where, got=f"no value for {key}", expected="a value", fix=fix)
    return entries[name]


def _require_schedule(chosen: Sequence[Mapping[str, Any]], path: Path) -> None:
    if not any(entry.get("schedules") for entry in chosen):
        raise DeploymentError(
            "--schedule",
            got=f"{', '.join(entry['name'] for entry in chosen)} of {path}: no schedule",
            expected="a deployment with schedules",
            fix="name one that has schedules, such as search-nightly, or omit --schedule",
        )


@contextmanager
def _client() -> Iterator[SyncPrefectClient]:
    """Yield a client of the running server of PREFECT_API_URL."""
    expected = "a Prefect server that keeps running, since it starts the deployed runs"
    fix = "run `prefect server start` and set PREFECT_API_URL=http://127.0.0.1:4200/api (its address)"
    url = PREFECT_API_URL.value()
    if not url:
        raise DeploymentError("Prefect server", got="PREFECT_API_URL is not set", expected=expected, fix=fix)
    where = f"Prefect server at {url}"
    with get_client(sync_client=True) as client:
        problem = client.api_healthcheck()
        if problem is not None:
            raise DeploymentError(where, got=str(problem), expected=expected, fix=fix)
        try:
            yield client
        except (httpx.TransportError, PrefectHTTPStatusError) as error:
            fix = "fix the cause and run the same command again"
            raise DeploymentError(where, got=str(error), expected="success", fix=fix) from error


def _ensure_pool(client: SyncPrefectClient, path: Path, name: str, wanted: Mapping[str, str] | None) -> str:
    """Create the work pool unless it exists; an existing pool stays as it is."""
    where = f"work pool {name}"
    try:
        pool = client.read_work_pool(name)
    except ObjectNotFound:
        if wanted is None:
            raise DeploymentError(
                where,
                got="no such pool on the server, and no type for it",
                expected=f"its type under definitions.work_pools in {path}",
                fix="add the type, or create the pool with `prefect work-pool create`",
            ) from None
        template = _job_template(path, wanted)
        client.create_work_pool(WorkPoolCreate(name=name, type=wanted["type"], base_job_template=template))
        return f"{where}: created, of type {wanted['type']}"
    if wanted is not None and pool.type != wanted["type"]:
        fix = f"use another name in {path}, or run `prefect work-pool delete {name}`"
        raise DeploymentError(where, got=f"type {pool.type}", expected=f"type {wanted['type']}", fix=fix)
    return f"{where}: exists"


def _job_template(path: Path, wanted: Mapping[str, str]) -> dict[str, Any]:
    if "base_job_template" in wanted:
        return _read(path.with_name(wanted["base_job_template"]))
    template = run_coro_as_sync(get_default_base_job_template_for_infrastructure_type(wanted["type"]))
    if template is None:
        raise DeploymentError(
            f"work pool type {wanted['type']}",
            got="no job template of Prefect for it",
            expected="a type whose worker is installed",
            fix=f"pip install prefect-{wanted['type']}",
        )
    return template


def _register(entry: Mapping[str, Any], path: Path, placeholders: Mapping[str, str], schedule: Schedule | None) -> None:
    """Create or update the deployment by `prefect deploy`."""
    arguments = ["--no-prompt", "deploy", "--prefect-file", str(path), "--name", entry["name"]]
    if schedule in _STRATEGIES and entry.get("schedules"):
        arguments += ["--concurrency-limit", "1", "--collision-strategy", _STRATEGIES[schedule]]
    code, output = run_prefect(arguments, placeholders)
    if code != 0:
        where, expected = f"deployment {entry['name']}", "success of `prefect deploy`"
        raise DeploymentError(where, got=output[-2000:], expected=expected, fix=f"fix {path}")


def _overlap_of(client: SyncPrefectClient, full_name: str) -> str:
    """Return what happens to a run that is due while another run of the deployment is running."""
    options = client.read_deployment_by_name(full_name).concurrency_options
    if options is None:
        return "overlapping runs run in parallel"
    return f"overlapping runs {'queue' if options.collision_strategy == _STRATEGIES['queue'] else 'are skipped'}"


def _active_schedules(client: SyncPrefectClient, full_name: str) -> Mapping[str, bool]:
    """Return whether each schedule of the deployment is active, by slug; empty for an unknown deployment."""
    try:
        schedules = client.read_deployment_by_name(full_name).schedules
    except ObjectNotFound:
        return {}
    return {schedule.slug: schedule.active for schedule in schedules if schedule.slug}


def _settle_schedules(
    client: SyncPrefectClient, full_name: str, before: Mapping[str, bool], wanted: bool | None
) -> Iterator[str]:
    """Turn the schedules on or off as `wanted`, or restore the state `before`; yield a line for each.

    `prefect deploy` creates the schedules anew, which would undo a choice made in Prefect's UI.
    """
    deployment = client.read_deployment_by_name(full_name)
    for schedule in deployment.schedules:
        active = before.get(schedule.slug or "", schedule.active) if wanted is None else wanted
        if active != schedule.active:
            client.update_deployment_schedule(deployment.id, schedule.id, active=active)
        state = "on" if active else "off; turn it on with --schedule or in Prefect's UI"
        yield f"schedule {schedule.slug} of {full_name}: {_rule_of(schedule)}, {state}"


def _rule_of(schedule: DeploymentSchedule) -> str:
    rule = schedule.schedule.model_dump(exclude_none=True)
    kind = next(key for key in ("cron", "interval", "rrule") if key in rule)
    return f"{kind} {rule[kind]} ({rule.get('timezone', 'UTC')})"


def _ensure_automation(client: SyncPrefectClient, path: Path, full_name: str, lost_after_s: int) -> str:
    """Create or update the deployment's automation, as automation.yaml defines it."""
    own = path.with_name(AUTOMATION.name)
    deployment_id = client.read_deployment_by_name(full_name).id
    values = {"deployment": full_name, "deployment_id": str(deployment_id), "lost_after_s": lost_after_s}
    automation = Automation.model_validate(apply_values(_read(own if own.is_file() else AUTOMATION), values))
    present = client.read_automations_by_name(automation.name)
    if present:
        automation.id = present[0].id
        automation.update()
    else:
        automation.create()
    done = "updated" if present else "created"
    return f"automation {automation.name!r}: {done}, after {lost_after_s} s without a heartbeat"


def _advice(client: SyncPrefectClient, pools: Sequence[str], full_name: str) -> Iterator[str]:
    yield "start a worker on each machine for searches (or under systemd, with KillMode=mixed):"
    for pool in dict.fromkeys(pools):
        # A shell starts background jobs with SIGINT ignored; a worker started so does not end on SIGTERM.
        kind = client.read_work_pool(pool).type
        yield f"  env --default-signal=SIGINT prefect worker start --pool {pool} --type {kind}"
    yield "start a run from Prefect's UI, or with:"
    yield f"  prefect deployment run {full_name} --param config=data/quickstart.yaml"
