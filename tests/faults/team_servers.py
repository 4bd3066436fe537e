"""The servers of a team as deployments/ wires them, without containers: PostgreSQL, and MLflow with users."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGINT

import httpx

from tests.faults.tracking_server import START_S, TrackingServer, free_port

SERVERS = Path(__file__).resolve().parents[2] / "deployments" / "servers"
_PLACES = ("/usr/local/bin", *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True))


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), *_PLACES)))


def has_postgres() -> bool:
    """Return whether PostgreSQL is installed; without it the tests use SQLite."""
    return None not in map(_program, ("initdb", "postgres", "psql"))


def _account() -> dict[str, object]:
    """Return whom PostgreSQL runs as, for Popen: it refuses to run as root."""
    if os.getuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    return {"user": "postgres" if "postgres" in names else "nobody", "extra_groups": []}


@dataclass(frozen=True)
class Postgres:
    """A running PostgreSQL with the databases of databases.sql."""

    port: int
    passwords: dict[str, str] = field(
        default_factory=lambda: {name: secrets.token_hex(12) for name in ("prefect", "mlflow")}, repr=False
    )

    def environment(self, role: str) -> dict[str, str]:
        """Return what a server finds its database by; none of it is on a command line or in a file."""
        return {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": role, "PGPASSWORD": self.passwords[role]}


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Give a PostgreSQL on a loopback port, with the databases and roles that databases.sql makes."""
    account = _account()
    directory = Path(tempfile.mkdtemp(prefix="msft-postgres-"))  # pytest's own are closed to other accounts
    data, word = directory / "data", directory / "password"
    word.write_text(secrets.token_hex(12))
    if account:
        for path in (directory, word):
            shutil.chown(path, account["user"])
    arguments = ["-D", str(data), "-U", "postgres", "-A", "scram-sha-256", f"--pwfile={word}", "--no-sync"]
    _run([str(_program("initdb")), *arguments], **account)
    server = Postgres(free_port())
    settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
    options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
    process = subprocess.Popen(
        [str(_program("postgres")), "-D", str(data), "-p", str(server.port), *options],
        stdin=subprocess.DEVNULL,
        stdout=(directory / "log").open("wb"),
        stderr=subprocess.STDOUT,
        cwd=directory,
        start_new_session=True,
        **account,  # type: ignore[call-overload]
    )
    try:
        _make_databases(server, word.read_text())
        yield server
    finally:
        process.send_signal(SIGINT)  # at once, without waiting for clients
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        shutil.rmtree(directory, ignore_errors=True)


def _make_databases(server: Postgres, password: str) -> None:
    environment = {
        **os.environ,
        "PGHOST": "127.0.0.1",
        "PGPORT": str(server.port),
        "PGUSER": "postgres",
        "PGPASSWORD": password,
        **{f"{role.upper()}_DB_PASSWORD": value for role, value in server.passwords.items()},
    }
    psql = [str(_program("psql")), "--no-psqlrc", "--quiet", "--dbname", "postgres"]
    deadline = time.monotonic() + START_S
    while subprocess.run([*psql, "-c", ""], env=environment, capture_output=True, check=False).returncode:
        assert time.monotonic() < deadline, "PostgreSQL does not answer"
        time.sleep(0.1)
    _run([*psql, "--file", str(SERVERS / "databases.sql")], env=environment)


def _run(command: list[str], **options: object) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"


@dataclass(frozen=True)
class Team:
    """Address of MLflow and credentials of a team's worker."""

    uri: str
    username: str
    password: str = field(repr=False)
    admin_password: str = field(repr=False)

    def environment(self) -> dict[str, str]:
        return {"MLFLOW_TRACKING_USERNAME": self.username, "MLFLOW_TRACKING_PASSWORD": self.password}

    def secrets(self) -> tuple[str, ...]:
        return (self.password, self.admin_password)


@contextmanager
def mlflow_with_users(directory: Path, database: Postgres | None) -> Iterator[Callable[[], Team]]:
    """Start an MLflow server that asks who one is; the block's value waits for it and makes the user `worker`.

    Its stores are the two databases of PostgreSQL, SQLite files where there is none.
    """
    admin_password, store = secrets.token_hex(12), f"sqlite:///{directory / 'mlflow.db'}"
    ini = SERVERS / "mlflow_auth.ini"
    environment = {
        "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
        "MLFLOW_AUTH_ADMIN_PASSWORD": admin_password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(24),
    }
    directory.mkdir(parents=True)
    if database is not None:
        environment |= database.environment("mlflow")
        store = "postgresql+psycopg:///mlflow"
    else:
        text = ini.read_text().replace("postgresql+psycopg:///mlflow_auth", f"sqlite:///{directory / 'auth.db'}")
        ini = directory / "mlflow_auth.ini"
        ini.write_text(text)
    environment["MLFLOW_AUTH_CONFIG_PATH"] = str(ini)
    server = TrackingServer(directory, store, ("--app-name", "basic-auth"), environment)
    server.start()

    def ready() -> Team:
        server.wait()
        team = Team(server.uri, "worker", secrets.token_hex(12), admin_password)
        httpx.post(
            f"{server.uri}/api/2.0/mlflow/users/create",
            json={"username": team.username, "password": team.password},
            auth=("admin", admin_password),
            timeout=60,
        ).raise_for_status()
        return team

    try:
        yield ready
    finally:
        server.kill()
