"""Which failures a Prefect task may try again."""

from __future__ import annotations

from typing import Any

from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from tasks.errors import MsftError


def may_succeed_again(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Say whether the failure is one of those that pass: a worker says so itself, other errors do not."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, MsftError) and error.retryable


RETRY: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": [5, 30, 120],
    "retry_condition_fn": may_succeed_again,
}
