"""Schedules of deployments: whether they run, and what a scheduled run is told about itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run

_RUN_NUMBER = "{run}"
_NUMBERS = 2**31


def active_schedules(client: SyncPrefectClient, full_name: str) -> Mapping[str, bool]:
    """Return which schedules of the deployment run, by slug; nothing where the server does not know it."""
    try:
        schedules = client.read_deployment_by_name(full_name).schedules
    except ObjectNotFound:
        return {}
    return {schedule.slug: schedule.active for schedule in schedules if schedule.slug}


def settle_schedules(
    client: SyncPrefectClient, full_name: str, before: Mapping[str, bool], wanted: bool | None
) -> Iterator[str]:
    """Start or stop the schedules as `wanted`, or leave each as it was `before`; yield what they do now.

    Registering a deployment makes its schedules anew, and would so undo what was chosen on Prefect's page.
    """
    deployment = client.read_deployment_by_name(full_name)
    for schedule in deployment.schedules:
        active = before.get(schedule.slug or "", schedule.active) if wanted is None else wanted
        if active != schedule.active:
            client.update_deployment_schedule(deployment.id, schedule.id, active=active)
        state = "on" if active else "off; turn it on with --schedule or on Prefect's page"
        yield f"schedule {schedule.slug} of {full_name}: {_when(schedule)}, {state}"


def _when(schedule: DeploymentSchedule) -> str:
    rule = schedule.schedule.model_dump(exclude_none=True)
    kind = next(key for key in ("cron", "interval", "rrule") if key in rule)
    return f"{kind} {rule[kind]} ({rule.get('timezone', 'UTC')})"


def fill_in_run_number(overrides: Sequence[str]) -> tuple[str, ...]:
    """Replace `{run}` with a number that is the flow run's own, in [0, 2**31).

    So `seed={run}` makes each scheduled run a search of its own, and one that is rescheduled goes on with its own.
    """
    if not any(_RUN_NUMBER in override for override in overrides):
        return tuple(overrides)
    number = UUID(flow_run.id).int % _NUMBERS
    return tuple(override.replace(_RUN_NUMBER, str(number)) for override in overrides)
