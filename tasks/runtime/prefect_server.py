"""Prefect's API for one command: the configured server, or one of its own that ends with the command."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_UI_URL,
    get_current_settings,
    temporary_settings,
)

from tasks.errors import PrefectServerError
from tasks.report.prefect_artifacts import LOCAL_PAGES
from tasks.runtime.processes import keep_running

logger = logging.getLogger(__name__)

# A first start creates Prefect's database: 16 s measured on an idle machine (facts.md, A8).
_START_S = 180.0
_POLL_S = 0.1
_MAX_CALLS = 5
# One that ends by itself does so again, as with a package that is missing; one that is killed need not.
_MAX_FAILED_STARTS = 3
Result = TypeVar("Result")


def run_flow(flow: Callable[[], Result], output_root: str) -> Result:
    """Call a flow with an API: that of PREFECT_API_URL, or else of a server of our own; return its result.

    Prefect's temporary server outlives a flow that is killed, gets the terminal's Ctrl-C before the flow has
    reported its end, and takes the flow with it when it dies. Ours does none of the three: it is started again,
    and so is the flow where it noticed, which goes on where it was.

    Raises:
        PrefectServerError: the server does not start, or dies again and again.
    """
    # A keepalive that comes while the connection for Prefect's events ends is logged with a traceback, though
    # nothing is lost: Prefect connects again.
    logging.getLogger("websockets.client").setLevel(logging.CRITICAL)
    # Each flow would wait a second for its heartbeat thread (facts.md, A8); deployments keep theirs.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}), _api(output_root) as url:
        for _ in range(_MAX_CALLS):
            try:
                return _call(flow)
            except httpx.TransportError as error:
                cause = f"lost ({error})"
                logger.warning(f"Prefect server at {url}: {cause}; going on when it answers again")
                _wait_for(url, output_root)
    raise PrefectServerError(url, cause, str(_log(output_root)))


def _call(flow: Callable[[], Result]) -> Result:
    """Call the flow; what hides a lost server is unwrapped, as Prefect does it in a process's first request."""
    try:
        return flow()
    except RuntimeError as error:
        if isinstance(error.__cause__, httpx.TransportError):
            raise error.__cause__ from error
        raise


@contextmanager
def _api(output_root: str) -> Iterator[str]:
    """Give the URL of the API that flows use in the block."""
    configured = PREFECT_API_URL.value()
    if configured:
        yield configured
        return
    port = _free_port()
    environment = get_current_settings().to_environment_variables(exclude_unset=True)
    # What Prefect sets for its own temporary server.
    environment |= {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    arguments = ["uvicorn", "--factory", "prefect.server.api.server:create_app", "--host", "127.0.0.1"]
    arguments += ["--port", str(port), "--log-level", "error", "--lifespan", "on"]
    url = f"http://127.0.0.1:{port}/api"
    with keep_running(arguments, _log(output_root), environment) as exit_codes:
        _wait_for(url, output_root, exit_codes)
        with temporary_settings({PREFECT_API_URL: url, PREFECT_UI_URL: LOCAL_PAGES}):
            yield url


def _log(output_root: str) -> Path:
    Path(output_root).mkdir(parents=True, exist_ok=True)
    return Path(output_root, "prefect-server.log")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str, output_root: str, exit_codes: Sequence[int] = ()) -> None:
    """Wait until the server answers, but not for one that ends by itself again and again."""
    deadline = time.monotonic() + _START_S
    cause = "no answer"
    while time.monotonic() < deadline:
        try:
            httpx.get(f"{url}/health", timeout=5).raise_for_status()
            return
        except httpx.HTTPError as error:
            cause = str(error)
        if sum(code > 0 for code in exit_codes) >= _MAX_FAILED_STARTS:
            lines = _log(output_root).read_text(errors="replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing in its log")
            cause = f"it ended {len(exit_codes)} times before it answered: {last}"
            break
        time.sleep(_POLL_S)
    raise PrefectServerError(url, cause, str(_log(output_root)))
