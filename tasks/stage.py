"""Decorator for the stages of a search: a Prefect task that is never cached, with the one retry policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from tasks.errors import MsftError

RETRY_DELAYS_S = (5.0, 30.0, 120.0)
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def stage(
    name: str, *, run_name: str | Callable[[], str] | None = None
) -> Callable[[Callable[Parameters, Result]], Task[Parameters, Result]]:
    """Return a decorator that makes a Prefect task of a stage.

    Results are not cached, since stages read and write files and MLflow; each stage is idempotent instead. A stage is
    tried again only after a failure that its error marks as `retryable`.

    Args:
        name: name of the task on Prefect's pages.
        run_name: name of each run, a template of the parameters or a function; `name` by default.
    """
    return task(
        name=name,
        task_run_name=run_name or name,
        cache_policy=NO_CACHE,
        retries=len(RETRY_DELAYS_S),
        retry_delay_seconds=list(RETRY_DELAYS_S),
        retry_condition_fn=is_retryable,
    )


def is_retryable(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Return True if the task failed with an error of ours that may pass; workers report this themselves."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, MsftError) and error.retryable
