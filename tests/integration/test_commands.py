"""Each command of `msft` in its own process: exit codes, stdout and stderr."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.states import Running

from tests.integration.conftest import REPOSITORY
from tests.prefect_home import prepare_home

SMOKE = str(REPOSITORY / "deployments" / "configs" / "smoke.yaml")
# No server listens on this port.
UNREACHABLE = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
COLOR = re.compile(r"\x1b\[[0-9;]*3[0-7]")


def msft(
    *arguments: str, home: Path, stand_in: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command in an environment without servers, other than those of `environment`."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_"))}
    prepare_home(home)
    paths = {"PREFECT_HOME": str(home), "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        env={**inherited, **paths, **environment},
        cwd=stand_in,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def place(searched: Any, prepare_root: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a finished search in searches/, a folder of data, and an empty swept/."""
    config, _ = searched
    place = tmp_path_factory.mktemp("place")
    prepare_root(place / "swept")
    (place / "searches").symlink_to(config.output_root)
    (place / "data").mkdir()
    rows = [{"prompt": f"{n} + 1 =", "completion": f" {n + 1}"} for n in range(20)]
    (place / "data" / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


DONE: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "init": (("init", "data", "--model", "none"), {"config", "sub_datasets"}),
    "plan": (("plan", SMOKE, "--set", "output_root=searches"), {"plan", "prices"}),
    "search": (("search", SMOKE, "--set", "output_root=searches"), {"champion", "ledger", "plan"}),
    "resume": (("resume", "smoke"), {"champion", "ledger", "plan"}),
    "status": (("status", "smoke"), {"condition", "champion_score"}),
    "report": (("report", "smoke"), {"pages"}),
    "export": (("export", "smoke", "--to", "out/model"), {"to", "num_bytes"}),
    "score": (("score", SMOKE, "--set", "output_root=searches"), {"sub_datasets", "mean", "rows"}),
    "headroom": (  # the only whole run of this command
        (
            "headroom",
            SMOKE,
            "--set",
            "search.max_epochs=0.5",
            "--set",
            "evaluation.selection=accuracy",
            "--set",
            "output_root=swept",
        ),
        {"headroom", "is_found", "spent_flops", "search_flops"},
    ),
    "sweep": (
        ("sweep", SMOKE, "--over", "search.max_epochs=0.5", "--methods", "sft", "--set", "output_root=swept"),
        {"summary", "runs"},
    ),
}


@pytest.mark.parametrize("command", DONE)
def test_success_exits_0_with_one_json_value_on_stdout(place: Path, command: str, prefect_server: str) -> None:
    arguments, keys = DONE[command]
    ended = msft(*arguments, "--json", home=place / "prefect", stand_in=place, PREFECT_API_URL=prefect_server)
    assert ended.returncode == 0, ended.stderr
    assert keys <= json.loads(ended.stdout).keys()
    assert ended.stderr.strip()  # the lines for people


@pytest.mark.parametrize(("environment", "failing"), [({}, set()), (UNREACHABLE, {"prefect", "mlflow"})])
def test_doctor_exits_1_if_a_check_fails(place: Path, environment: dict[str, str], failing: set[str]) -> None:
    ended = msft("doctor", "--json", home=place / "prefect", stand_in=place, **environment)
    checks = {check["name"]: check for check in json.loads(ended.stdout)}
    assert {name for name, check in checks.items() if check["verdict"] == "fail"} == failing, ended.stderr
    assert ended.returncode == (1 if failing else 0)
    assert {"python", "packages", "torch", "disk", "prefect", "mlflow", "searches", "workers"} <= checks.keys()
    assert all(checks[name]["fix"] for name in failing)
    assert checks["searches"]["finding"] == "1 found, 0 running, none interrupted"


def test_doctors_fix_ends_a_lost_flow_run(place: Path, prefect_server: str) -> None:
    @flow(name="msft-search")
    def lost() -> None:
        """A search whose machine was lost: Prefect shows it as RUNNING for ever."""

    server = {"PREFECT_API_URL": prefect_server}
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(lost, name="search-lost", state=Running())
        ended = msft("doctor", "--json", home=place / "prefect", stand_in=place, **server)
        # Another test may have left a run of its own on the server.
        found = next(check for check in json.loads(ended.stdout) if "search-lost: Prefect shows" in check["finding"])
        assert (found["name"], found["verdict"]) == ("flow runs", "warn")
        assert "as RUNNING" in found["finding"]
        command = [sys.executable, "-m", *shlex.split(found["fix"])]
        subprocess.run(command, env={**os.environ, **server}, check=True, timeout=300)
        state = client.read_flow_run(run.id).state
    assert state is not None
    assert state.type == StateType.CRASHED


def test_deploy_reports_each_step(place: Path, prefect_server: str) -> None:
    server = {"PREFECT_API_URL": prefect_server}
    ended = msft("deploy", "--json", home=place / "prefect", stand_in=place, **server)
    assert ended.returncode == 0, ended.stderr
    assert "work pool msft-process: created, of type process" in json.loads(ended.stdout)["lines"]


@pytest.mark.parametrize("command", ["plan", "search", "sweep"])
def test_quiet_leaves_stdout_empty(place: Path, command: str) -> None:
    ended = msft(*DONE[command][0], "--quiet", home=place / "prefect", stand_in=place)
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("status", "nothing"), 1, "no such search"),
        (("resume", "nothing"), 1, "no such search"),
        (("report", "nothing"), 1, "no such search"),
        (("export", "nothing", "--to", "out"), 1, "no such search"),
        (("init", "nowhere"), 1, "nowhere"),
        (("deploy",), 1, "PREFECT_API_URL is not set"),
        (("plan", SMOKE, "--set", "sed=1"), 2, "did you mean seed"),
        (("search", SMOKE, "--set", "sed=1"), 2, "did you mean seed"),
        (("doctor", SMOKE, "--set", "sed=1"), 2, "did you mean seed"),
        (("compare", SMOKE, "--methods", "sfd"), 2, "got 'sfd'; expected a method or preset"),
        (("compare", SMOKE, "--seeds", "one"), 2, "got 'one'; expected whole numbers"),
        (("sweep", SMOKE, "--over", "rows"), 2, "expected the form a.b=1,2,3"),
    ],
    ids=lambda value: " ".join(value[:1]) if isinstance(value, tuple) else None,
)
def test_failure_exits_1_refusal_exits_2_and_both_give_json(
    tmp_path: Path, arguments: Sequence[str], code: int, message: str
) -> None:
    ended = msft(*arguments, "--json", home=tmp_path, stand_in=tmp_path)
    assert (ended.returncode, "Traceback" in ended.stderr) == (code, False), ended.stderr
    assert message in json.loads(ended.stdout)["error"]
    assert message in " ".join(ended.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("serch", SMOKE), "Did you mean 'search'?"),
        (("search",), "Missing argument 'config'"),
        (("search", SMOKE, "--jsn"), "No such option: --jsn"),
        (("deploy", "--schedule", "never"), "'off', 'queue', 'skip'"),
    ],
)
def test_a_wrong_command_line_exits_2_with_a_hint(tmp_path: Path, arguments: Sequence[str], message: str) -> None:
    ended = msft(*arguments, home=tmp_path, stand_in=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert message in " ".join(ended.stderr.replace("│", " ").split())  # the box may break the line


def test_no_color_prints_without_colors(tmp_path: Path) -> None:
    bright = msft("report", "nothing", home=tmp_path, stand_in=tmp_path, FORCE_COLOR="1")
    plain = msft("report", "nothing", home=tmp_path, stand_in=tmp_path, FORCE_COLOR="1", NO_COLOR="1")
    assert COLOR.search(bright.stdout)
    assert not COLOR.search(plain.stdout)
    assert "no such search" in plain.stdout


def test_shell_completion(tmp_path: Path) -> None:
    for shell in ("bash", "zsh", "fish"):
        ended = msft("--show-completion", shell, home=tmp_path, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
        assert ended.returncode == 0, ended.stderr
        assert "complete" in ended.stdout
