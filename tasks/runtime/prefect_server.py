"""Prefect's API for one command: the configured server, or an embedded one that ends with the command."""

from __future__ import annotations

import importlib
import logging
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx
import prefect
from prefect.client.orchestration import get_client
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_HOME,
    PREFECT_UI_URL,
    get_current_settings,
    temporary_settings,
)

from tasks.errors import PrefectServerError
from tasks.runtime.files import make_folder
from tasks.runtime.launch import worker_environment
from tasks.runtime.processes import bypass_proxy, keep_running
from tasks.runtime.spans import span

logger = logging.getLogger(__name__)

# Where `prefect server start` listens unless it is told otherwise.
LOCAL_PAGES = "http://127.0.0.1:4200"
# The first start in a new home creates Prefect's database: 16 s measured on an idle machine.
_START_S = 180.0
# A configured server runs already; with the command's start and one request, its failure is told within a minute.
_ANSWER_S, _REQUEST_S = 30.0, 5.0
_POLL_S = 0.1
# Before a flow is called again that the server has failed; after the last, the search ends.
_PAUSES_S = (2.0, 5.0, 15.0, 60.0, 0.0)
# One that ends by itself does so again, as with a package that is missing; one that is killed need not.
_MAX_FAILED_STARTS = 3
# The last line of a traceback; uvicorn adds lines that say only that it failed.
_RAISED = re.compile(r"[\w.]*(?:Error|Exception)\b.*")
Result = TypeVar("Result")


def settings_for_children() -> dict[str, str]:
    """Return the variables that give a child process the settings of this one, such as the address of the API."""
    return get_current_settings().to_environment_variables(exclude_unset=True)


def run_flow(flow: Callable[[], Result], output_root: str, module: str = "") -> Result:
    """Call a flow with an API: that of PREFECT_API_URL, or else of an embedded server; return its result.

    Prefect's temporary server outlives a flow that is killed, gets the terminal's Ctrl-C before the flow has
    reported its end, and takes the flow with it when it dies. The embedded one does none of the three. A flow that
    lost the server, or that the server failed (HTTP 5xx), is called again, and goes on where it was.

    Args:
        module: imported while the embedded server starts, which takes as long.
    Raises:
        PrefectServerError: the server does not answer, or fails again and again.
    """
    # A keepalive that comes while the connection for Prefect's events ends is logged with a traceback, though
    # nothing is lost: Prefect connects again.
    logging.getLogger("websockets.client").setLevel(logging.CRITICAL)
    bypass_proxy()
    # Each flow would wait a second for its heartbeat thread; deployments keep theirs.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}), _api(output_root, module) as url:
        for pause_s in _PAUSES_S:
            try:
                return _call(flow)
            except _OutageError as error:
                cause = f"lost ({error})"
                logger.warning(f"Prefect server at {url}: {cause}; going on when it answers again")
                # Its health is checked without its database: what fails on the database passes the check.
                time.sleep(0.0 if isinstance(error.__cause__, httpx.TransportError) else pause_s)
                _wait_for(url, output_root, _START_S)
    raise _error(url, cause, output_root)


class _OutageError(Exception):
    """The server is away or fails, and may answer again."""


def _call(flow: Callable[[], Result]) -> Result:
    """Call the flow; unwrap the error that hides a lost server in a process's first request."""
    try:
        return flow()
    except Exception as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) else error
        if is_outage(cause):
            raise _OutageError(str(cause)) from cause
        raise


def is_outage(error: BaseException | None) -> bool:
    """Return whether an error is that of a lost connection, or of the server of flows that failed (HTTP 5xx)."""
    if isinstance(error, httpx.HTTPStatusError):
        is_of_prefect = str(error.request.url).startswith(PREFECT_API_URL.value() or "none")
        return is_of_prefect and error.response.status_code >= 500
    return isinstance(error, httpx.TransportError)


@contextmanager
def _api(output_root: str, module: str) -> Iterator[str]:
    """Yield the URL of the API that flows use in the block."""
    configured = PREFECT_API_URL.value()
    if configured:
        _wait_for(configured, output_root, _ANSWER_S)
        yield configured
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/api"
    with (
        temporary_settings({PREFECT_API_URL: url, PREFECT_UI_URL: LOCAL_PAGES, PREFECT_HOME: _home(output_root)}),
        _serve(url, output_root) as exit_codes,
    ):
        if module:
            with span("imports"):
                importlib.import_module(module)
        with span("Prefect"):
            _wait_for(url, output_root, _START_S, exit_codes)
        yield url


@contextmanager
def _serve(url: str, output_root: str) -> Iterator[list[int]]:
    """Run the embedded server while the block runs; yield its exit codes so far."""
    settings = settings_for_children()
    del settings["PREFECT_API_URL"]
    # As Prefect sets them for its own temporary server.
    settings |= {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    arguments = ["uvicorn", "--factory", "prefect.server.api.server:create_app", "--host", "127.0.0.1"]
    arguments += ["--port", str(httpx.URL(url).port), "--log-level", "error", "--lifespan", "on"]
    make_folder(Path(output_root))
    with keep_running(arguments, _log(output_root), worker_environment(1) | settings) as exit_codes:
        yield exit_codes


def _home(output_root: str) -> Path:
    """Return the server's home: PREFECT_HOME where one is chosen, or else a folder for this version of Prefect.

    The database in the default home may have been migrated by another version, and then this one refuses it.
    """
    chosen = Path(PREFECT_HOME.value())
    if chosen != Path.home() / ".prefect":
        return chosen
    home = Path(output_root, "cache", f"prefect-{prefect.__version__}").resolve()
    make_folder(home)
    return home


def _log(output_root: str) -> Path:
    return Path(output_root, "prefect-server.log")


def _error(url: str, cause: str, output_root: str) -> PrefectServerError:
    log = _log(output_root)
    return PrefectServerError(url, cause, str(log) if log.exists() else "")


def _wait_for(url: str, output_root: str, patience_s: float, exit_codes: Sequence[int] = ()) -> None:
    """Wait until the server at PREFECT_API_URL answers, but not for one that ends by itself again and again."""
    deadline = time.monotonic() + patience_s
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
        client = get_client(httpx_settings={"timeout": _REQUEST_S}, sync_client=True)
        while (error := client.api_healthcheck()) is not None:
            cause = f"no answer ({error})"
            if isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500:
                cause = f"no API of Prefect is there, or it refuses ({error})"
            elif sum(code > 0 for code in exit_codes) >= _MAX_FAILED_STARTS:
                cause = f"it ended {len(exit_codes)} times before it answered: {_cause_in(_log(output_root))}"
            elif time.monotonic() < deadline:
                time.sleep(_POLL_S)
                continue
            raise _error(url, cause, output_root)


def _cause_in(log: Path) -> str:
    """Return the last error in a log, or else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").split("\n") if line.strip()]
    raised = [line for line in lines if _RAISED.match(line)]
    return next(reversed(raised or lines), "nothing in its log")
