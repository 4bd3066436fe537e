"""Prefect's API for one command: the configured server, or one of its own that ends with the command."""

from __future__ import annotations

import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    get_current_settings,
    temporary_settings,
)

from tasks.errors import PrefectServerError
from tasks.launch import keep_running

# A first start creates Prefect's database: 16 s measured on an idle machine (facts.md, A8).
_START_S = 180.0
_POLL_S = 0.1


@contextmanager
def prefect_api(output_root: str) -> Iterator[None]:
    """Give the flows of the block an API: the one of PREFECT_API_URL, or else a server of our own.

    Prefect's temporary server outlives a flow that is killed, gets the terminal's Ctrl-C before the flow has
    reported its end, and takes the flow with it when it dies. Ours does none of the three.

    Raises:
        PrefectServerError: the server does not start.
    """
    # Each flow would wait a second for its heartbeat thread (facts.md, A8); deployments keep theirs.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        if PREFECT_API_URL.value():
            yield
            return
        log = Path(output_root, "prefect-server.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        port = _free_port()
        environment = get_current_settings().to_environment_variables(exclude_unset=True)
        # What Prefect sets for its own temporary server.
        environment |= {
            "PREFECT_UI_ENABLED": "0",
            "PREFECT__SERVER_EPHEMERAL": "1",
            "PREFECT__SERVER_FINAL": "1",
        }
        arguments = ["uvicorn", "--factory", "prefect.server.api.server:create_app", "--host", "127.0.0.1"]
        arguments += ["--port", str(port), "--log-level", "error", "--lifespan", "on"]
        url = f"http://127.0.0.1:{port}/api"
        with keep_running(arguments, log, environment):
            _wait_for(url, log)
            with temporary_settings({PREFECT_API_URL: url}):
                yield


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    cause = "no answer"
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (OSError, urllib.error.URLError) as error:
            cause = str(error)
        time.sleep(_POLL_S)
    raise PrefectServerError(url, cause, str(log))
