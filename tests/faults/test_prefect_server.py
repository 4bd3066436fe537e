"""A flow that loses its Prefect server goes on when it answers again; other errors are not repeated."""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import psutil
import pytest
from prefect._internal.websockets import websocket_connect
from prefect.client.orchestration import SyncPrefectClient
from prefect.events.clients import PrefectEventsClient
from prefect.events.schemas.events import Event, Resource
from prefect.settings import (
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_HOME,
    temporary_settings,
)
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tasks.errors import PrefectServerError
from tasks.runtime import prefect_server
from tasks.runtime.prefect_server import run_flow
from tests.faults.tracking_server import free_port


class Healthy(BaseHTTPRequestHandler):
    """A server that is healthy, and fails on its database as often as asked."""

    num_failures = 0
    status = 200

    def do_GET(self) -> None:
        is_failure = not self.path.endswith("/health") and Healthy.num_failures > 0
        Healthy.num_failures -= is_failure
        self.send_response(503 if is_failure else Healthy.status)
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


def embedded(home: Path | None = None) -> AbstractContextManager[object]:
    """Settings of a user without a server; other tests of this process may use one with a database of its own."""
    unset = {PREFECT_API_DATABASE_CONNECTION_URL, *({PREFECT_HOME} if home is None else ())}
    chosen = {} if home is None else {PREFECT_HOME: home}
    return temporary_settings({PREFECT_API_URL: None, **chosen}, restore_defaults=unset)


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


def test_the_own_server_listens_on_the_loopback_address_only(tmp_path: Path) -> None:
    def listening() -> set[str]:
        children = psutil.Process().children(recursive=True)
        servers = [child for child in children if "prefect.server.api.server:create_app" in child.cmdline()]
        sockets = [socket for server in servers for socket in server.net_connections("inet")]
        return {socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN}

    with embedded(tmp_path / "prefect"):
        assert run_flow(listening, str(tmp_path)) == {"127.0.0.1"}


def test_an_embedded_server_has_a_home_of_its_own(tmp_path: Path) -> None:
    """The database in ~/.prefect may be that of another Prefect version, which this one refuses."""

    def home() -> Path:
        return Path(PREFECT_HOME.value())

    with embedded():
        used = run_flow(home, str(tmp_path))
    assert used.parent == tmp_path / "cache"
    assert (used / "prefect.db").is_file()


def test_a_database_of_another_version_is_named_as_the_cause(tmp_path: Path) -> None:
    home = tmp_path / "prefect"
    home.mkdir()
    with sqlite3.connect(home / "prefect.db") as database:
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        database.execute("INSERT INTO alembic_version VALUES ('f00f00f00f00')")
    database.close()
    with embedded(home), pytest.raises(PrefectServerError, match="Can't locate revision identified by 'f00f00f00f00'"):
        run_flow(Flow(), str(tmp_path))


def test_a_dead_configured_server_is_named_in_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert prefect_server._ANSWER_S + prefect_server._REQUEST_S < 60
    monkeypatch.setattr(prefect_server, "_ANSWER_S", 0.5)
    monkeypatch.setattr(prefect_server, "_REQUEST_S", 0.5)
    flow = Flow()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for port in (silent.getsockname()[1], free_port()):
            url = f"http://127.0.0.1:{port}/api"
            told = rf"{url}: no answer(.|\n)*unset it"
            with temporary_settings({PREFECT_API_URL: url}), pytest.raises(PrefectServerError, match=told) as failed:
                run_flow(flow, str(tmp_path))
            assert "prefect-server.log" not in str(failed.value)  # which only our own server writes
    assert flow.num_calls == 0


@pytest.mark.usefixtures("_api")
def test_a_server_on_this_machine_is_reached_without_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")  # put back after the test
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")

    def status() -> int:
        return httpx.get(f"{PREFECT_API_URL.value()}/health").status_code

    assert run_flow(status, str(tmp_path)) == 200


@pytest.mark.usefixtures("_api")
def test_a_flow_that_loses_its_server_is_called_again(tmp_path: Path) -> None:
    flow = Flow(httpx.ConnectError("All connection attempts failed"), httpx.ReadError("reset"))
    assert run_flow(flow, str(tmp_path)) == 3


@pytest.mark.usefixtures("_api")
def test_a_flow_that_its_server_fails_is_called_again(tmp_path: Path) -> None:
    def flow() -> int:
        return httpx.get(f"{PREFECT_API_URL.value()}/flow_runs/1").raise_for_status().status_code

    Healthy.num_failures = 2
    assert run_flow(flow, str(tmp_path)) == 200
    assert Healthy.num_failures == 0


@pytest.mark.usefixtures("_api")
def test_a_server_that_is_not_prefects_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Healthy, "status", 404)
    flow = Flow()
    with pytest.raises(PrefectServerError, match=r"127\.0\.0\.1:\d+/api: no API of Prefect is there.*404"):
        run_flow(flow, str(tmp_path))
    assert flow.num_calls == 0


@pytest.mark.usefixtures("_api")
def test_a_server_error_of_another_service_is_not_repeated(tmp_path: Path) -> None:
    request = httpx.Request("GET", "http://elsewhere/model")
    flow = Flow(httpx.HTTPStatusError("503", request=request, response=httpx.Response(503, request=request)))
    with pytest.raises(httpx.HTTPStatusError):
        run_flow(flow, str(tmp_path))
    assert flow.num_calls == 1


@pytest.mark.usefixtures("_api")
def test_a_server_lost_before_the_first_request_is_awaited(tmp_path: Path) -> None:
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


def test_a_server_that_cannot_start_is_named_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a package that it needs is missing; it was waited for for three minutes once."""
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError('no asyncpg here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    flow = Flow()
    with (
        embedded(tmp_path / "prefect"),
        pytest.raises(PrefectServerError, match=r"ended \d times.*ModuleNotFoundError: no asyncpg here") as failed,
    ):
        run_flow(flow, str(tmp_path))
    assert str(tmp_path / "prefect-server.log") in str(failed.value)
    assert flow.num_calls == 0


@pytest.mark.usefixtures("_api")
def test_another_error_of_the_flow_is_not_repeated(tmp_path: Path) -> None:
    for bug in (ValueError("a bug"), RuntimeError("a bug")):
        flow = Flow(bug)
        with pytest.raises(type(bug), match="a bug"):
            run_flow(flow, str(tmp_path))
        assert flow.num_calls == 1


async def _end_connections(num_connections: int) -> None:
    """Let a server end the connections that Prefect sends its events through, as one that is told to end does."""

    async def handler(connection: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            await connection.recv()
            await connection.send('{"type": "auth_success"}')
            await asyncio.sleep(0.1)
            await connection.close(1012)

    async def send_events(uri: str) -> None:
        client = PrefectEventsClient(uri, reconnection_attempts=0, checkpoint_interval=0.02)
        async with client:
            for number in range(8):
                resource = Resource({"prefect.resource.id": f"test.{number}"})
                with suppress(Exception):
                    await client.emit(Event(event="test", resource=resource))
                await asyncio.sleep(0.05)

    async with serve(handler, "127.0.0.1", 0, subprotocols=[Subprotocol("prefect")]) as server:
        uri = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api"
        await asyncio.gather(*(send_events(uri) for _ in range(num_connections)), return_exceptions=True)


@pytest.mark.usefixtures("_api")
def test_events_connections_that_end_print_no_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A keepalive that comes while its connection ends is told with a traceback by the library of the connection."""
    often = partial(websocket_connect, ping_interval=0.02)  # instead of every 20 s
    monkeypatch.setattr("prefect.events.clients.websocket_connect", often)
    run_flow(lambda: asyncio.run(_end_connections(20)), str(tmp_path))
    # The server's own log goes to a file, where it is a process of its own.
    told = [record for record in caplog.records if record.exc_info and record.name != "websockets.server"]
    assert [f"{record.name}: {record.getMessage()}" for record in told] == []
