"""A real MLflow server in a process of its own, and a proxy before it that fails as networks and servers do."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

START_S = 180.0
# Below the ports that Linux gives to outgoing connections, of which one may come between probe and server.
_PORTS = range(20_000, 32_000)
# Open as long as this process lives: each keeps a port from every other test process of the machine.
_RESERVED: list[int] = []


class TrackingServer:
    """`mlflow server`, on an SQLite store of its own or another; it may be killed and started again on its port."""

    def __init__(
        self,
        directory: Path,
        store: str | None = None,
        arguments: Sequence[str] = (),
        extra: Mapping[str, str] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.store = store or f"sqlite:///{directory / 'mlflow.db'}"
        self.arguments, self.extra = arguments, extra or {}
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; `wait` until it answers."""
        arguments = [*self.arguments, "--backend-store-uri", self.store]
        arguments += ["--artifacts-destination", str(self.directory / "artifacts")]
        arguments += ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        environment = {
            **os.environ,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "OMP_NUM_THREADS": "1",
            **self.extra,
        }
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Return when it answers."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            try:
                httpx.get(f"{self.uri}/health", timeout=5).raise_for_status()
                return
            except httpx.HTTPError:
                time.sleep(0.2)
        raise AssertionError(f"no answer in {START_S} s: {(self.directory / 'server.log').read_text()[-2000:]}")

    def strike(self, name: str, away_s: float) -> None:
        """Send TERM, KILL or INT, or STOP and then KILL, to the server and its worker; start it again after a time."""
        assert self.process is not None
        signals = {"STOP": (signal.SIGSTOP, signal.SIGKILL)}.get(name, (getattr(signal, f"SIG{name}"),))
        for number in signals:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            time.sleep(2.0 if number == signal.SIGSTOP else 0.0)
        deadline = time.monotonic() + away_s
        while self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        self.kill()  # one that takes its time to end
        time.sleep(max(0.0, deadline - time.monotonic()))
        self.start()

    def kill(self) -> None:
        """Take it away with its worker process, as a lost machine would."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def running(directory: Path) -> Iterator[TrackingServer]:
    """Give a server that answers, for the block."""
    server = TrackingServer(directory)
    server.start()
    try:
        server.wait()
        yield server
    finally:
        server.kill()


class FaultyProxy:
    """Hands requests on to a server, and lets some of them fail.

    Modes: `ok`; `500` answers so itself; `refuse` closes the connection before the request is handed on; `lost`
    hands it on and then closes the connection without the answer; `slow` has none when the client gives up.
    """

    def __init__(self, target: str, share: float, seed: int) -> None:
        self.mode, self.share, self.num_failed = "ok", share, 0
        rng, lock, proxy = random.Random(seed), threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with lock:
                    fails = proxy.mode != "ok" and rng.random() < proxy.share
                    proxy.num_failed += fails
                if fails and proxy.mode == "500":
                    self.send_error(500)
                elif fails and proxy.mode == "refuse":
                    self.close_connection = True
                else:
                    self._hand_on(body, fails)

            def _hand_on(self, body: bytes, fails: bool) -> None:
                headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "content-length")}
                answer = httpx.request(self.command, f"{target}{self.path}", content=body, headers=headers, timeout=60)
                if fails:  # `lost` and `slow`
                    if proxy.mode == "slow":
                        with suppress(OSError):
                            self.rfile.read(1)  # nothing comes until the client has closed the connection
                    self.close_connection = True
                    return
                self.send_response(answer.status_code)
                for name in ("content-type", "location"):
                    if name in answer.headers:
                        self.send_header(name, answer.headers[name])
                self.send_header("Content-Length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Answer nothing any more."""
        self.server.shutdown()
        self.server.server_close()


def free_port() -> int:
    """Return a port of the loopback address that nobody listens on, and that no other test process is given."""
    locks = Path(tempfile.gettempdir(), f"msft-test-ports-{os.getuid()}")
    locks.mkdir(exist_ok=True)
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        lock = os.open(locks / str(port), os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:  # another's
            os.close(lock)
            continue
        _RESERVED.append(lock)
        return port
    raise AssertionError(f"no free port in {_PORTS}")
