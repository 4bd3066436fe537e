"""A flow that loses its Prefect server goes on when it answers again; other errors are not repeated."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from tasks.errors import PrefectServerError
from tasks.prefect_server import run_flow
from tests.faults.tracking_server import free_port


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def _api() -> Iterator[None]:
    server = HTTPServer(("127.0.0.1", 0), Healthy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{server.server_port}/api"}):
        yield
    server.shutdown()


class Flow:
    """Fails with the given errors, one a call, and then returns how often it was called."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.num_calls = 0

    def __call__(self) -> int:
        self.num_calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.num_calls


@pytest.mark.usefixtures("_api")
def test_a_flow_that_loses_its_server_is_called_again(tmp_path: Path) -> None:
    flow = Flow(httpx.ConnectError("All connection attempts failed"), httpx.ReadError("reset"))
    assert run_flow(flow, str(tmp_path)) == 3


@pytest.mark.usefixtures("_api")
def test_a_server_that_is_lost_before_the_first_request_is_waited_for(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/api"  # nobody answers there
    clients = [SyncPrefectClient(url), SyncPrefectClient(url)]

    def flow() -> str:
        if clients:
            clients.pop().raise_for_api_version_mismatch()
        return "went on"

    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
        assert run_flow(flow, str(tmp_path)) == "went on"
    assert clients == []


@pytest.mark.usefixtures("_api")
def test_a_server_that_dies_again_and_again_is_named(tmp_path: Path) -> None:
    flow = Flow(*[httpx.ConnectError("All connection attempts failed")] * 9)
    with pytest.raises(PrefectServerError, match="lost"):
        run_flow(flow, str(tmp_path))


@pytest.mark.usefixtures("_api")
def test_another_error_of_the_flow_is_not_repeated(tmp_path: Path) -> None:
    for bug in (ValueError("a bug"), RuntimeError("a bug")):
        flow = Flow(bug)
        with pytest.raises(type(bug), match="a bug"):
            run_flow(flow, str(tmp_path))
        assert flow.num_calls == 1
