"""Flow runs that a Prefect server takes for running."""

from __future__ import annotations

from datetime import datetime

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterParentTaskRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.exceptions import PrefectHTTPStatusError

from tasks.contracts import Value

_FLOWS = ("msft-search", "msft-search-file", "msft-compare", "msft-compare-file", "msft-sweep")


class RunningFlow(Value):
    """A flow run that Prefect shows as RUNNING, and since when."""

    id: str
    name: str
    since: datetime | None


def running_flows() -> list[RunningFlow] | None:
    """Return the runs that no other flow started, of the server of PREFECT_API_URL; None where it refuses to tell."""
    running = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])),
        parent_task_run_id=FlowRunFilterParentTaskRunId(is_null_=True),
    )
    with get_client(sync_client=True) as client:
        try:
            runs = client.read_flow_runs(
                flow_filter=FlowFilter(name=FlowFilterName(any_=list(_FLOWS))), flow_run_filter=running
            )
        except PrefectHTTPStatusError:  # it answers, and asks for a password that is not set
            return None
    return [RunningFlow(id=str(run.id), name=run.name, since=run.start_time) for run in runs]
