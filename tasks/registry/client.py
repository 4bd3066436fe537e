"""The way to MLflow: its client, and patience while it is away; registry.py and tracking.py go through it."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import time
from collections.abc import Callable
from functools import lru_cache, update_wrapper
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# A request that is repeated after its answer was lost may create a run twice; `retry_while_unavailable` repeats whole
# functions instead, which find what they left behind.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
# Nothing that is loaded from a tracking server may run code here.
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from requests import RequestException
from sqlalchemy.exc import OperationalError

from tasks.contracts import SearchRef
from tasks.errors import DeletedRunError, NoDiskSpaceError, TrackingError
from tasks.redaction import without_password
from tasks.runtime.files import is_out_of_space, no_room, publish_file

logger = logging.getLogger(__name__)

_LONGEST_PAUSE_S = 15.0
_SQLITE = "sqlite:///"
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def retry_while_unavailable(
    function: Callable[Concatenate[SearchRef, Parameters], Result],
) -> Callable[Concatenate[SearchRef, Parameters], Result]:
    """Let a function that talks to MLflow wait while it is away, and then do all of it again.

    Each of these functions finds what it left behind before it creates anything, with time stamps from the
    files, so that doing it again changes nothing. What is to be recorded lies in files until then (the roll-out's
    result, the scores), training and scoring go on in their own processes, and the order is kept.

    Raises:
        TrackingError: MLflow was away for longer than `tracking.outage_minutes`, or refuses for good.
        NoDiskSpaceError: the disk of its SQLite store, or of its files, is full.
        DeletedRunError: a run of the search was deleted.
    """

    def call(search: SearchRef, /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        return patiently(search.tracking_uri, search.outage_s, lambda: function(search, *args, **kwargs))

    update_wrapper(call, function)
    return call


def patiently(uri: str, patience_s: float, call: Callable[[], Result]) -> Result:
    """Return what `call` gives, made again while MLflow at `uri` is away, for at most `patience_s`.

    Raises:
        TrackingError, NoDiskSpaceError, DeletedRunError: as `retry_while_unavailable`.
    """
    began, pause_s = time.monotonic(), 0.5
    while True:
        try:
            result = call()
        except (MlflowException, OperationalError, OSError) as error:
            cause = _told(_root_of(error))
            if not _may_pass(error):
                raise _refusal(uri, error) from error
            if time.monotonic() - began + pause_s > patience_s:
                raise TrackingError(uri, cause) from error
        else:
            if pause_s > 0.5:
                logger.info(f"MLflow answers again after {time.monotonic() - began:.0f} s")
            return result
        if pause_s == 0.5:
            place = without_password(uri)
            logger.warning(f"MLflow at {place} does not answer; waiting for it, nothing is lost ({cause})")
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _root_of(error: BaseException) -> BaseException:
    """Return what was wrong at the bottom: `Connection refused`, not the address that was asked."""
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return error


def _told(root: BaseException) -> str:
    return " ".join(str(root).split())[:300] or type(root).__name__


def _is_own_disk_full(root: BaseException) -> bool:
    """Say whether it is this machine's disk that is full: another's error comes as text, and may pass."""
    return is_out_of_space(root) or getattr(root, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def _may_pass(error: Exception) -> bool:
    """Say whether MLflow may answer the same call later: no connection, an error of the server, a locked database."""
    if _is_own_disk_full(_root_of(error)):
        return False
    if isinstance(error, MlflowException):
        return error.get_http_status_code() in (429, *range(500, 600))
    return isinstance(error, OperationalError | RequestException | ConnectionError | TimeoutError)


def _refusal(uri: str, error: Exception) -> TrackingError | DeletedRunError | NoDiskSpaceError:
    root = _root_of(error)
    if _is_own_disk_full(root):
        place = getattr(root, "filename", None) or uri.removeprefix(_SQLITE)
        return no_room(Path(place), "what MLflow is to keep")
    cause = _told(root)
    deleted = re.search(r"run (\w+) must be in the 'active' state", cause)
    return DeletedRunError(uri, deleted[1]) if deleted else TrackingError(uri, cause)


@lru_cache(maxsize=4)
def client_of(tracking_uri: str) -> MlflowClient:
    """Return the client of a tracking store; an SQLite store is created where there is none."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # what fails is raised, and told by us
    _create_whole(tracking_uri)
    return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def _create_whole(tracking_uri: str) -> None:
    """Create an SQLite store beside its place and link it there.

    A kill during MLflow's own creation of it (7 s of migrations) would leave one that MLflow refuses ever after.
    """
    if not is_not_there(tracking_uri):
        return
    store = Path(tracking_uri.removeprefix(_SQLITE))

    def create(staging: Path) -> None:
        MlflowClient(f"sqlite:///{staging}").search_experiments(max_results=1)

    publish_file(store, create, keeps_older=True)  # another search of this folder may be first


def is_not_there(tracking_uri: str) -> bool:
    """Say whether this is an SQLite store that has not been created."""
    return tracking_uri.startswith(_SQLITE) and not Path(tracking_uri.removeprefix(_SQLITE)).exists()
