"""Flow runs on a Prefect server: the events and the number of a deployed run, and the runs shown as RUNNING."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterParentTaskRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.events import emit_event
from prefect.exceptions import PrefectHTTPStatusError
from prefect.flows import Flow
from prefect.runtime import flow_run as this_flow_run

from tasks.contracts import Value

P = ParamSpec("P")
R = TypeVar("R")
# One of the events that deployments/automation.yaml expects after a heartbeat.
END_EVENT = "msft.flow-run.ended"
# Names of all flows without a parent.
FLOWS = ("msft-search", "msft-search-file", "msft-compare", "msft-compare-file")
_RUN_NUMBER = "{run}"
_NUMBERS = 2**31


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
    if flow_run.deployment_id is None:
        return
    deployment = f"prefect.deployment.{flow_run.deployment_id}"
    emit_event(
        END_EVENT,
        resource={"prefect.resource.id": f"prefect.flow-run.{flow_run.id}"},
        related=[{"prefect.resource.role": "deployment", "prefect.resource.id": deployment}],
        payload={"state": state.name},
    )


def fill_in_run_number(overrides: Sequence[str]) -> tuple[str, ...]:
    """Replace `{run}` with a number in [0, 2**31) that is derived from the flow run's id.

    `seed={run}` makes each scheduled run a search of its own; a rescheduled run keeps its id, and continues its search.
    """
    if not any(_RUN_NUMBER in override for override in overrides):
        return tuple(overrides)
    number = UUID(this_flow_run.id).int % _NUMBERS
    return tuple(override.replace(_RUN_NUMBER, str(number)) for override in overrides)


class RunningFlow(Value):
    """A flow run that Prefect shows as RUNNING, and the time since when."""

    id: str
    name: str
    since: datetime | None


def running_flows() -> list[RunningFlow] | None:
    """Return the running flow runs without a parent on the server of PREFECT_API_URL; None if it denies access."""
    running = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])),
        parent_task_run_id=FlowRunFilterParentTaskRunId(is_null_=True),
    )
    ours = FlowFilter(name=FlowFilterName(any_=list(FLOWS)))
    with get_client(sync_client=True) as client:
        try:
            runs = client.read_flow_runs(flow_filter=ours, flow_run_filter=running)
        except PrefectHTTPStatusError:  # healthy, but a password is required and not set
            return None
    return [RunningFlow(id=str(run.id), name=run.name, since=run.start_time) for run in runs]
