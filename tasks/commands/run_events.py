"""What the automation of a deployment hears of a run: that it lives, waits to start again, or has ended."""

from __future__ import annotations

from typing import Any, ParamSpec, TypeVar

from prefect.client.schemas.objects import FlowRun, State
from prefect.events import emit_event
from prefect.flows import Flow

P = ParamSpec("P")
R = TypeVar("R")
HEARTBEAT = "prefect.flow-run.heartbeat"
_ENDED = "msft.flow-run.ended"
# One that is being cancelled may take long to save and has no heartbeat then; nobody wants it to start again.
SIGNS = frozenset(
    {HEARTBEAT, _ENDED}
    | {
        f"prefect.flow-run.{state}"
        for state in ("Completed", "Failed", "Cancelling", "Cancelled", "Crashed", "AwaitingRetry")
    }
)


def tells_its_end(flow: Flow[P, R]) -> Flow[P, R]:
    """Let a deployed flow tell the automation when a run of it has ended, in whatever way.

    Prefect holds the event of a state back until it has seen that of the state before, up to 15 minutes, and there is
    none of a run's first state where the scheduler made it. A run that ended within minutes of its creation was so
    started again, cancelled or not (Prefect 3.8.8).
    """
    for when in (flow.on_completion, flow.on_failure, flow.on_cancellation, flow.on_crashed):
        when(_say_ended)
    return flow


def _say_ended(flow: Flow[..., Any], flow_run: FlowRun, state: State) -> None:
    if flow_run.deployment_id is None:
        return
    emit_event(
        _ENDED,
        resource={"prefect.resource.id": f"prefect.flow-run.{flow_run.id}"},
        related=[
            {
                "prefect.resource.role": "deployment",
                "prefect.resource.id": f"prefect.deployment.{flow_run.deployment_id}",
            }
        ],
        payload={"state": state.name},
    )
