"""Register deployments with a Prefect server: work pool, deployment, schedules, and the automation for lost runs.

What a deployed run does for them is here too: its event at its end, and its number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar
from uuid import UUID

import httpx
import yaml
from prefect.automations import Automation
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events import emit_event
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.runtime import flow_run as this_flow_run
from prefect.settings import PREFECT_API_URL
from prefect.utilities.asyncutils import run_coro_as_sync
from prefect.utilities.templating import apply_values

from tasks.config.shipped import SHIPPED
from tasks.errors import DeploymentError
from tasks.redaction import without_passwords
from tasks.runtime.processes import run_prefect

Schedule = Literal["off", "queue", "skip"]
_STRATEGIES = {"queue": "ENQUEUE", "skip": "CANCEL_NEW"}
# Three missed heartbeats of 30 s; measured: 87 s from the loss of a machine to AwaitingRetry.
LOST_AFTER_S = 90
DEFAULT = "search-process"
_FOLDER = SHIPPED / "deployments"
AUTOMATION = _FOLDER / "automation.yaml"  # unless there is one beside the prefect.yaml
P = ParamSpec("P")
R = TypeVar("R")
# One of the events that deployments/automation.yaml expects after a heartbeat.
END_EVENT = "msft.flow-run.ended"


def emits_end_event(flow: Flow[P, R]) -> Flow[P, R]:
    """Make a flow emit `END_EVENT` when a deployed run of it ends in any state.

    Prefect holds the event of a state back until it has seen the event of the previous state, for up to 15 minutes,
    and emits no event for a run's first state if the scheduler created it. Without an event of its own, a run that
    ended within minutes of its creation was started again by the automation, cancelled or not (Prefect 3.8.8).
    """
    for add_hook in (flow.on_completion, flow.on_failure, flow.on_cancellation, flow.on_crashed):
        add_hook(_emit_end_event)
    return flow


def _emit_end_event(flow: Flow[..., Any], flow_run: FlowRun, state: State) -> None:
    if flow_run.deployment_id is not None:
        resource = {"prefect.resource.id": f"prefect.flow-run.{flow_run.id}"}
        deployment = {"prefect.resource.id": f"prefect.deployment.{flow_run.deployment_id}"}
        related = [{"prefect.resource.role": "deployment", **deployment}]
        emit_event(END_EVENT, resource=resource, related=related, payload={"state": state.name})


def fill_in_run_number(overrides: Sequence[str]) -> tuple[str, ...]:
    """Replace `{run}` with a number in [0, 2**31) that is derived from the flow run's id.

    `seed={run}` makes each scheduled run a search of its own; a rescheduled run keeps its id, and continues its search.
    """
    if not any("{run}" in override for override in overrides):
        return tuple(overrides)
    number = UUID(this_flow_run.id).int % 2**31
    return tuple(override.replace("{run}", str(number)) for override in overrides)


def deploy(
    names: Sequence[str],
    file: str | None,
    placeholders: Mapping[str, str | None],
    lost_after_s: int,
    schedule: Schedule | None = None,
) -> Iterator[str]:
    """Register each named deployment of `file` with its work pool and automation; yield a line for each step.

    A second call updates what is registered, and adds nothing. DeploymentError: no server answers, the file holds no
    such deployment, or Prefect refuses it.

    Args:
        names: deployments of the file; empty: `DEFAULT`.
        file: a prefect.yaml; None: the package's.
        placeholders: values of the `{{ $NAME }}` in the file.
        lost_after_s: seconds without a heartbeat after which a run is given to another worker.
        schedule: turn schedules off, or on with overlapping runs queued or skipped; None: keep all as it is.
    """
    path = Path(file) if file else _FOLDER / "prefect.yaml"
    definition = _read(path)
    pools = (definition.get("definitions") or {}).get("work_pools") or {}
    chosen = [_find(definition, path, name, placeholders) for name in names or [DEFAULT]]
    if schedule is not None and not any(entry.get("schedules") for entry in chosen):
        got = f"{', '.join(entry['name'] for entry in chosen)} of {path}: no schedule"
        fix = "name one that has schedules, such as search-nightly, or omit --schedule"
        raise DeploymentError("--schedule", got=got, expected="a deployment with schedules", fix=fix)
    with _client() as client:
        for entry in chosen:
            pool = entry["work_pool"]["name"]
            yield _ensure_pool(client, path, pool, pools.get(pool))
            full_name = f"{load_flow_from_entrypoint(entry['entrypoint']).name}/{entry['name']}"
            before = _active_schedules(client, full_name)
            _register(entry, path, {key: value for key, value in placeholders.items() if value}, schedule)
            deployed = client.read_deployment_by_name(full_name)
            yield f"deployment {full_name}: registered with pool {pool}; {_overlap_of(deployed)}"
            yield from _settle_schedules(client, deployed, full_name, before, schedule)
            values = {"deployment": full_name, "deployment_id": str(deployed.id), "lost_after_s": lost_after_s}
            yield _ensure_automation(client, path, values)
        yield from _advice(client, [entry["work_pool"]["name"] for entry in chosen], full_name)


def _read(path: Path) -> dict[str, Any]:
    fix = "fix the file"
    try:
        definition = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        got, expected = "no such file", "the prefect.yaml with the deployments"
        fix = "name it with --file; the repository's is in deployments/"
    except yaml.YAMLError as error:
        got, expected = " ".join(str(error).split()), "YAML"
    else:
        if isinstance(definition, dict):
            return definition
        got, expected = type(definition).__name__, "a mapping of keys to values"
    raise DeploymentError(str(path), got=got, expected=expected, fix=fix)


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
        expected = f"one of {', '.join(entries)}; each has a name, an entrypoint and a work_pool"
        raise DeploymentError(where, got=f"not in {path}", expected=expected, fix="name one of them")
    shown = str(entries[name].get("parameters", ""))
    if (masked := without_passwords(shown)) != shown:
        got, expected = f"a password among its parameters: {masked}", "none, since Prefect stores and shows them"
        fix = "set it in the worker's environment (MLFLOW_TRACKING_PASSWORD, PGPASSWORD) or in the YAML file"
        raise DeploymentError(where, got=got, expected=expected, fix=fix)
    for key, value in placeholders.items():
        if not value and f"${key}" in str(entries[name]):
            fix = f"set {key}, or see `msft deploy --help`"
            raise DeploymentError(where, got=f"no value for {key}", expected="a value", fix=fix)
    return entries[name]


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
            got, expected = (
                "no such pool on the server, and no type for it",
                f"its type under definitions.work_pools in {path}",
            )
            fix = "add the type, or create the pool with `prefect work-pool create`"
            raise DeploymentError(where, got=got, expected=expected, fix=fix) from None
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
    from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type  # not in each search

    template = run_coro_as_sync(get_default_base_job_template_for_infrastructure_type(wanted["type"]))
    if template is None:
        where, got = f"work pool type {wanted['type']}", "no job template of Prefect for it"
        fix = f"pip install prefect-{wanted['type']}"
        raise DeploymentError(where, got=got, expected="a type whose worker is installed", fix=fix)
    return template


def _register(entry: Mapping[str, Any], path: Path, placeholders: Mapping[str, str], schedule: Schedule | None) -> None:
    """Create or update the deployment by `prefect deploy`."""
    arguments = ["--no-prompt", "deploy", "--prefect-file", str(path), "--name", entry["name"]]
    if schedule in _STRATEGIES and entry.get("schedules"):
        arguments += ["--concurrency-limit", "1", "--collision-strategy", _STRATEGIES[schedule]]
    # Prefect imports the flow with its working directory first on the path, where a user's `tasks.py` may be.
    code, output = run_prefect(arguments, placeholders, path.parent if path.parent == _FOLDER else None)
    if code != 0:
        where, expected = f"deployment {entry['name']}", "success of `prefect deploy`"
        raise DeploymentError(where, got=output[-2000:], expected=expected, fix=f"fix {path}")


def _overlap_of(deployed: DeploymentResponse) -> str:
    """Return what happens to a run that is due while another run of the deployment is running."""
    if deployed.concurrency_options is None:
        return "overlapping runs run in parallel"
    is_queued = deployed.concurrency_options.collision_strategy == _STRATEGIES["queue"]
    return f"overlapping runs {'queue' if is_queued else 'are skipped'}"


def _active_schedules(client: SyncPrefectClient, full_name: str) -> Mapping[str, bool]:
    """Return whether each schedule of the deployment is active, by slug; empty for an unknown deployment."""
    try:
        schedules = client.read_deployment_by_name(full_name).schedules
    except ObjectNotFound:
        return {}
    return {schedule.slug: schedule.active for schedule in schedules if schedule.slug}


def _settle_schedules(
    client: SyncPrefectClient,
    deployed: DeploymentResponse,
    full_name: str,
    before: Mapping[str, bool],
    wanted: Schedule | None,
) -> Iterator[str]:
    """Turn the schedules on or off as `wanted`, or as `before`, which `prefect deploy` loses; yield a line each."""
    for one in deployed.schedules:
        active = before.get(one.slug or "", one.active) if wanted is None else wanted != "off"
        if active != one.active:
            client.update_deployment_schedule(deployed.id, one.id, active=active)
        rule = one.schedule.model_dump(exclude_none=True)
        kind = next(key for key in ("cron", "interval", "rrule") if key in rule)
        state = "on" if active else "off; turn it on with --schedule or in Prefect's UI"
        yield f"schedule {one.slug} of {full_name}: {kind} {rule[kind]} ({rule.get('timezone', 'UTC')}), {state}"


def _ensure_automation(client: SyncPrefectClient, path: Path, values: Mapping[str, Any]) -> str:
    """Create or update the deployment's automation, as automation.yaml defines it with these values."""
    own = path.with_name(AUTOMATION.name)
    automation = Automation.model_validate(apply_values(_read(own if own.is_file() else AUTOMATION), dict(values)))
    present = client.read_automations_by_name(automation.name)
    if present:
        automation.id = present[0].id
        automation.update()
    else:
        automation.create()
    done = "updated" if present else "created"
    return f"automation {automation.name!r}: {done}, after {values['lost_after_s']} s without a heartbeat"


def _advice(client: SyncPrefectClient, pools: Sequence[str], full_name: str) -> Iterator[str]:
    yield "start a worker on each machine for searches (or under systemd, with KillMode=mixed):"
    for pool in dict.fromkeys(pools):
        # A shell starts background jobs with SIGINT ignored; a worker started so does not end on SIGTERM.
        kind = client.read_work_pool(pool).type
        yield f"  env --default-signal=SIGINT prefect worker start --pool {pool} --type {kind}"
    yield "start a run from Prefect's UI, or with:"
    yield f"  prefect deployment run {full_name} --param config=quickstart"
