"""MLflow's client, and the retries while MLflow is unavailable; everything in this room goes through it."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, update_wrapper
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# A request repeated after its answer was lost may create a run twice. `retry_while_unavailable` repeats whole functions
# instead, which find what they left behind.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
# Nothing that is loaded from a tracking server may run code here.
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")

from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from requests import RequestException
from sqlalchemy.exc import OperationalError

from tasks.contracts import SearchRef
from tasks.errors import DeletedRunError, NoDiskSpaceError, TrackingError
from tasks.redaction import without_password
from tasks.runtime.files import is_out_of_space, no_room, publish_file
from tasks.runtime.spans import span, traced

logger = logging.getLogger(__name__)

_LONGEST_PAUSE_S = 15.0
_FIRST_PAUSE_S = 0.5
_SQLITE = "sqlite:///"
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def retry_while_unavailable(
    function: Callable[Concatenate[SearchRef, Parameters], Result],
) -> Callable[Concatenate[SearchRef, Parameters], Result]:
    """Decorate a function that talks to MLflow: while MLflow is unavailable, it waits and calls the function again.

    The function must be idempotent as a whole: it looks for what an earlier call left behind before it creates
    anything, and its time stamps come from files. Training and scoring go on in their own processes.

    Raises:
        TrackingError: MLflow was unavailable for longer than `tracking.outage_minutes`, or refuses for good.
        NoDiskSpaceError: the disk of its SQLite store, or of its files, is full.
        DeletedRunError: a run of the search was deleted.
    """

    def call(search: SearchRef, /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return retry_for(search.tracking_uri, search.outage_s, lambda: function(search, *args, **kwargs))
        except TrackingError as error:
            if error.is_refused and (deleted := _deleted_run(search)) is not None:
                raise DeletedRunError(search.tracking_uri, deleted) from error
            raise

    update_wrapper(call, function)
    return call


def retry_for(uri: str, patience_s: float, call: Callable[[], Result]) -> Result:
    """Return the result of `call`, repeated while MLflow at `uri` is unavailable, for at most `patience_s` seconds.

    Raises:
        TrackingError, NoDiskSpaceError: as in `retry_while_unavailable`.
    """
    began, pause_s = time.monotonic(), _FIRST_PAUSE_S
    while True:
        try:
            with span("MLflow calls"):
                result = call()
        except (MlflowException, OperationalError, OSError) as error:
            if not _may_pass(error):
                raise _refusal(uri, error) from error
            if time.monotonic() - began + pause_s > patience_s:
                raise TrackingError(uri, _cause_of(error)) from error
            if pause_s == _FIRST_PAUSE_S:
                place = without_password(uri)
                logger.warning(f"MLflow at {place} does not answer; waiting, nothing is lost ({_cause_of(error)})")
        else:
            if pause_s > _FIRST_PAUSE_S:
                logger.info(f"MLflow answers again after {time.monotonic() - began:.0f} s")
            return result
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _root_of(error: BaseException) -> BaseException:
    """Return the innermost cause: `Connection refused` rather than the address that was asked."""
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return error


def _cause_of(error: BaseException) -> str:
    root = _root_of(error)
    return " ".join(str(root).split())[:300] or type(root).__name__


def _is_own_disk_full(root: BaseException) -> bool:
    """Return whether this machine's disk is full; a full disk elsewhere arrives as text, and may pass."""
    return is_out_of_space(root) or getattr(root, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def _may_pass(error: Exception) -> bool:
    """Return whether MLflow may answer the same call later: no connection, a server error, a locked database."""
    if _is_own_disk_full(_root_of(error)):
        return False
    if isinstance(error, MlflowException):
        return error.get_http_status_code() in (429, *range(500, 600))
    return isinstance(error, OperationalError | RequestException | ConnectionError | TimeoutError)


def _refusal(uri: str, error: Exception) -> TrackingError | NoDiskSpaceError:
    root = _root_of(error)
    if _is_own_disk_full(root):
        place = getattr(root, "filename", None) or uri.removeprefix(_SQLITE)
        return no_room(Path(place), "what MLflow is to keep")
    status = error.get_http_status_code() if isinstance(error, MlflowException) else None
    return TrackingError(uri, _cause_of(error), status)


def _deleted_run(search: SearchRef) -> str | None:
    """Return a run of the search that was deleted: MLflow refuses to write to it, with a code that others share."""
    condition = f"tags.`msft.search_id` = '{search.search_id}'"
    with suppress(MlflowException, OperationalError, OSError):
        runs = client_of(search.tracking_uri).search_runs(
            [search.experiment_id], condition, run_view_type=ViewType.DELETED_ONLY
        )
        return str(runs[0].info.run_id) if runs else None
    return None


@lru_cache(maxsize=4)
def client_of(tracking_uri: str) -> MlflowClient:
    """Return the client of a tracking store; a missing SQLite store is created."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # what fails is raised and reported by us
    _create_whole(tracking_uri)
    client: MlflowClient = traced("MLflow", MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri))
    return client


def _create_whole(tracking_uri: str) -> None:
    """Create an SQLite store under another name and link it to its own.

    A kill during the migrations that MLflow runs on a new store (7 s) would leave one that MLflow refuses ever after.
    """
    if not is_not_there(tracking_uri):
        return
    store = Path(tracking_uri.removeprefix(_SQLITE))

    def create(staging: Path) -> None:
        MlflowClient(f"sqlite:///{staging}").search_experiments(max_results=1)

    publish_file(store, create, keeps_older=True)  # another search of this folder may be first


def is_not_there(tracking_uri: str) -> bool:
    """Return whether this is an SQLite store that does not exist yet."""
    return tracking_uri.startswith(_SQLITE) and not Path(tracking_uri.removeprefix(_SQLITE)).exists()
