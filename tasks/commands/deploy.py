"""Register deployments of the search with a Prefect server, and what picks up their runs when a machine is lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import httpx
import yaml
from prefect.automations import Automation
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events import EventTrigger, Posture, ResourceSpecification
from prefect.events.actions import ChangeFlowRunState
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import PREFECT_API_URL
from prefect.utilities.asyncutils import run_coro_as_sync
from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type

from tasks.commands.run_events import HEARTBEAT, SIGNS
from tasks.commands.schedules import active_schedules, settle_schedules
from tasks.errors import DeploymentError
from tasks.redaction import without_passwords
from tasks.runtime.processes import run_prefect

Schedule = Literal["off", "queue", "skip"]
_STRATEGIES = {"queue": "ENQUEUE", "skip": "CANCEL_NEW"}
# Three heartbeats of 30 s missed: 87 s from the machine's loss to AwaitingRetry (facts.md, A4).
LOST_AFTER_S = 90
DEFAULT = "search-process"


def deploy(
    names: Sequence[str],
    file: str | None,
    placeholders: Mapping[str, str | None],
    lost_after_s: int,
    schedule: Schedule | None = None,
) -> Iterator[str]:
    """Register each named deployment of `file` with its pool and automation; yield what was done, line by line.

    Done again, it changes what is there and adds nothing.

    Args:
        placeholders: values of the `{{ $NAME }}` in the file.
        lost_after_s: seconds without a heartbeat after which a run is given to another worker.
        schedule: turn schedules off, or on with runs that queue or are skipped while another one runs; None leaves
            them on or off as they are, and all else as the file has it.
    Raises:
        DeploymentError: no server answers, the file holds no such deployment, or Prefect refuses it.
    """
    path = Path(file) if file else Path(__file__).resolve().parents[2] / "deployments" / "prefect.yaml"
    definition = _read(path)
    pools = (definition.get("definitions") or {}).get("work_pools") or {}
    chosen = [_find(definition, path, name, placeholders) for name in names or [DEFAULT]]
    if schedule is not None:
        _require_schedule(chosen, path)
    with _client() as client:
        for entry in chosen:
            pool = entry["work_pool"]["name"]
            yield _ensure_pool(client, path, pool, pools.get(pool))
            full_name = _name_of(entry)
            schedules = active_schedules(client, full_name)
            _register(entry, path, {key: value for key, value in placeholders.items() if value}, schedule)
            yield f"deployment {full_name}: registered with pool {pool}; {_overlap_of(client, full_name)}"
            wanted = None if schedule is None else schedule != "off"
            yield from settle_schedules(client, full_name, schedules, wanted)
            yield _ensure_automation(client, full_name, lost_after_s)
        yield from _advice(client, [entry["work_pool"]["name"] for entry in chosen], full_name)


def _name_of(entry: Mapping[str, Any]) -> str:
    return f"{load_flow_from_entrypoint(entry['entrypoint']).name}/{entry['name']}"


def _register(
    entry: Mapping[str, Any], path: Path, placeholders: Mapping[str, str], schedule: Schedule | None
) -> None:
    """Let Prefect's own command create or update the deployment."""
    arguments = ["--no-prompt", "deploy", "--prefect-file", str(path), "--name", entry["name"]]
    if schedule in _STRATEGIES and entry.get("schedules"):
        arguments += ["--concurrency-limit", "1", "--collision-strategy", _STRATEGIES[schedule]]
    code, output = run_prefect(arguments, placeholders)
    if code != 0:
        raise DeploymentError(
            f"deployment {entry['name']}",
            got=output[-2000:],
            wanted="that `prefect deploy` accepts it",
            fix=f"mend {path}",
        )


def _overlap_of(client: SyncPrefectClient, full_name: str) -> str:
    """Say what becomes of a run that is due while another one of the deployment runs."""
    options = client.read_deployment_by_name(full_name).concurrency_options
    if options is None:
        return "runs that overlap run side by side"
    return f"runs that overlap {'queue' if options.collision_strategy == _STRATEGIES['queue'] else 'are skipped'}"


def _read(path: Path) -> dict[str, Any]:
    try:
        definition = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DeploymentError(
            str(path),
            got="no such file",
            wanted="the prefect.yaml with the deployments",
            fix="name it with --file; it lies in deployments/ of the repository",
        ) from None
    except yaml.YAMLError as error:
        raise DeploymentError(
            str(path), got=" ".join(str(error).split()), wanted="YAML", fix="mend the file"
        ) from None
    if not isinstance(definition, dict):
        raise DeploymentError(
            str(path),
            got=type(definition).__name__,
            wanted="a mapping of keys to values",
            fix="mend the file",
        )
    return definition


def _find(
    definition: Mapping[str, Any], path: Path, name: str, placeholders: Mapping[str, str | None]
) -> Mapping[str, Any]:
    """Return the deployment of this name, all of whose placeholders have a value."""
    entries: dict[str, Mapping[str, Any]] = {
        entry["name"]: entry
        for entry in definition.get("deployments") or []
        if {"name", "entrypoint", "work_pool"} <= entry.keys()
    }
    if name not in entries:
        raise DeploymentError(
            f"deployment {name!r}",
            got=f"not in {path}",
            wanted=f"one of {', '.join(entries)}; each has a name, an entrypoint and a work_pool",
            fix="name one of them",
        )
    shown = str(entries[name].get("parameters", ""))
    if without_passwords(shown) != shown:
        raise DeploymentError(
            f"deployment {name!r}",
            got=f"a password among its parameters: {without_passwords(shown)}",
            wanted="none, since Prefect keeps and shows them",
            fix="give it in the worker's environment (MLFLOW_TRACKING_PASSWORD, PGPASSWORD) or in the YAML file",
        )
    for key, value in placeholders.items():
        if not value and f"${key}" in str(entries[name]):
            raise DeploymentError(
                f"deployment {name!r}",
                got=f"no value for {key}",
                wanted="one",
                fix=f"set {key}, or see `msft deploy --help`",
            )
    return entries[name]


def _require_schedule(chosen: Sequence[Mapping[str, Any]], path: Path) -> None:
    if not any(entry.get("schedules") for entry in chosen):
        raise DeploymentError(
            "--schedule",
            got=f"{', '.join(entry['name'] for entry in chosen)} of {path}: no schedule",
            wanted="a deployment with schedules",
            fix="name one that has them, such as search-nightly, or leave --schedule out",
        )


@contextmanager
def _client() -> Iterator[SyncPrefectClient]:
    """Give a client of the server that runs deployments, which has to be there already."""
    wanted = "a Prefect server that stays, since it is the one that starts deployed runs"
    fix = "run `prefect server start` and set PREFECT_API_URL=http://127.0.0.1:4200/api (its address)"
    url = PREFECT_API_URL.value()
    if not url:
        raise DeploymentError("Prefect server", got="PREFECT_API_URL is not set", wanted=wanted, fix=fix)
    with get_client(sync_client=True) as client:
        problem = client.api_healthcheck()
        if problem is not None:
            raise DeploymentError(f"Prefect server at {url}", got=str(problem), wanted=wanted, fix=fix)
        try:
            yield client
        except (httpx.TransportError, PrefectHTTPStatusError) as error:
            raise DeploymentError(
                f"Prefect server at {url}",
                got=str(error),
                wanted="its consent",
                fix="mend that and try again",
            ) from error


def _ensure_pool(client: SyncPrefectClient, path: Path, name: str, wanted: Mapping[str, str] | None) -> str:
    try:
        pool = client.read_work_pool(name)
    except ObjectNotFound:
        if wanted is None:
            raise DeploymentError(
                f"work pool {name}",
                got="not on the server, and of unknown type",
                wanted=f"its type under definitions.work_pools in {path}",
                fix="add it, or create the pool with `prefect work-pool create`",
            ) from None
        client.create_work_pool(
            WorkPoolCreate(name=name, type=wanted["type"], base_job_template=_template(path, wanted))
        )
        return f"work pool {name}: created, of type {wanted['type']}"
    if wanted is not None and pool.type != wanted["type"]:
        raise DeploymentError(
            f"work pool {name}",
            got=f"type {pool.type}",
            wanted=f"type {wanted['type']}",
            fix=f"choose another name in {path}, or `prefect work-pool delete {name}`",
        )
    return f"work pool {name}: there already"


def _template(path: Path, wanted: Mapping[str, str]) -> dict[str, Any]:
    if "base_job_template" in wanted:
        return _read(path.with_name(wanted["base_job_template"]))
    template = run_coro_as_sync(get_default_base_job_template_for_infrastructure_type(wanted["type"]))
    if template is None:
        raise DeploymentError(
            f"work pool type {wanted['type']}",
            got="Prefect knows no job template for it",
            wanted="a type of which a worker is installed",
            fix=f"pip install prefect-{wanted['type']}",
        )
    return template


def _ensure_automation(client: SyncPrefectClient, full_name: str, lost_after_s: int) -> str:
    """Reschedule a run of the deployment when it has had a heartbeat, and then none and no end for so long.

    Matched by the deployment's id: heartbeats do not carry its name, and those of rounds carry no deployment at all.
    """
    deployment_id = client.read_deployment_by_name(full_name).id
    automation = Automation(
        name=f"msft: reschedule lost runs of {full_name}",
        description="A run whose heartbeat stopped is given to another worker; made by `msft deploy`.",
        trigger=EventTrigger(
            after={HEARTBEAT},
            expect=set(SIGNS),
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=ResourceSpecification(
                {
                    "prefect.resource.role": "deployment",
                    "prefect.resource.id": f"prefect.deployment.{deployment_id}",
                }
            ),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=lost_after_s),
        ),
        actions=[ChangeFlowRunState(state=StateType.SCHEDULED, name="AwaitingRetry")],
    )
    present = client.read_automations_by_name(automation.name)
    if not present:
        automation.create()
        return f"automation {automation.name!r}: created, after {lost_after_s} s without a heartbeat"
    automation.id = present[0].id
    automation.update()
    return f"automation {automation.name!r}: updated, after {lost_after_s} s without a heartbeat"


def _advice(client: SyncPrefectClient, pools: Sequence[str], full_name: str) -> Iterator[str]:
    yield "start a worker where the searches shall run (or under systemd, with KillMode=mixed):"
    for pool in dict.fromkeys(pools):
        # A shell starts its background jobs with SIGINT ignored, and the worker would not end on SIGTERM then.
        kind = client.read_work_pool(pool).type
        # Deployments limit themselves only; searches of two of them would meet on the machine's GPU.
        limit = " --limit 1" if kind == "process" else ""
        yield f"  env --default-signal=SIGINT prefect worker start --pool {pool} --type {kind}{limit}"
    yield "start a run from Prefect's page, or with:"
    yield f"  prefect deployment run {full_name} --param config=data/quickstart.yaml"
