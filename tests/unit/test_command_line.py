"""The command line: help, flags and lists, and what it imports for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from tasks.config.loading import load_config
from tasks.config.presets import PRESETS
from tasks.errors import ConfigError

QUICKSTART = str(Path(__file__).parents[2] / "data" / "quickstart.yaml")
COMMANDS = [
    "init", "inspect", "plan", "headroom", "search", "resume", "status", "report", "export", "score",
    "compare", "sweep", "methods", "deploy", "follow", "doctor",
]  # fmt: skip
LIGHT = """
import json, sys
from typer.testing import CliRunner
from flows.cli import app
for arguments in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, arguments)
    print(type(result.exception).__name__)
print(sorted({"prefect", "mlflow", "torch", "transformers", "datasets", "pandas", "matplotlib"} & set(sys.modules)))
"""


def test_every_command_reaches_this_machine_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "example.org")
    assert CliRunner().invoke(app, ["methods"]).exit_code == 0
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "example.org,127.0.0.1,localhost,::1"


@pytest.mark.parametrize("command", ["", *COMMANDS])
@pytest.mark.parametrize("name", ["-h", "--help"])
def test_help_shows_flags_as_flags(command: str, name: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), name], terminal_width=200, env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "bool" not in result.output
    assert "--no-" not in result.output.replace("--no-merge-lora", "")


def test_every_command_is_in_the_help() -> None:
    output = CliRunner().invoke(app, ["-h"]).output
    assert [command for command in COMMANDS if f"│ {command} " not in output] == []


def test_the_version_is_the_packages() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"msft {version('msft-search')}\n"


@pytest.mark.parametrize("arguments", [["methods"], ["compare", "--methods", "help"], ["sweep", "--methods", "help"]])
def test_every_method_and_preset_has_a_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert CliRunner().invoke(app, arguments).exit_code == 0
    lines = CliRunner().invoke(app, arguments).output.splitlines()
    assert [line.split()[0] for line in lines[: len(PRESETS)]] == list(PRESETS)
    assert all(len(line) <= 100 for line in lines)


def test_methods_are_listed_as_json() -> None:
    listed = json.loads(CliRunner().invoke(app, ["methods", "--json"]).stdout)
    assert [one["name"] for one in listed] == list(PRESETS)


def test_help_lists_and_refusals_import_nothing_heavy() -> None:
    calls = {
        ("--help",): "NoneType",
        ("methods",): "NoneType",
        ("search", QUICKSTART, "--print-config"): "NoneType",
        ("compare", QUICKSTART, "--methods", "sft,msftt"): "ConfigError",
        ("compare", QUICKSTART, "--control", "stf"): "ConfigError",
        ("sweep", QUICKSTART, "--over", "seed=1,2", "--methods", "stf"): "ConfigError",
    }
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, json.dumps(list(calls))], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [*calls.values(), "[]"]


def test_a_mistyped_method_names_the_nearest() -> None:
    result = CliRunner().invoke(app, ["compare", QUICKSTART, "--methods", "sft,msft_memry"])
    assert isinstance(result.exception, ConfigError)
    assert result.exception.problems == ("got 'msft_memry'; expected a method or preset; did you mean msft_memory?",)


@pytest.mark.parametrize(
    ("overrides", "rank", "told"),
    [
        ([], 1, "got 1; expected a search with training.machines of at least 2: set training.machines"),
        (["--set", "training.machines=2"], 2, "got 2; expected 1 to 1: 0 is where `msft search` runs"),
        (["--set", "training.machines=2"], 0, "got 0; expected 1 to 1: 0 is where `msft search` runs"),
    ],
)
def test_a_follower_has_a_number_of_its_own(overrides: list[str], rank: int, told: str) -> None:
    environment = {"SLURM_NODEID": str(rank)}
    result = CliRunner().invoke(app, ["follow", QUICKSTART, *overrides], env=environment)
    assert isinstance(result.exception, ConfigError)
    assert result.exception.problems == (told,)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--at-once", "2"], "takes effect only with --on; on this machine: --parallel"),
        (["--on", "search-arm", "--parallel", "2"], "takes no effect with --on"),
        (["--on", "search-arm"], "got tracking.uri a file of this machine; expected an MLflow server"),
        (["--on", "search-arm", "--set", "tracking.uri=http://a:secret@b"], "got a password in tracking.uri"),
    ],
)
@pytest.mark.parametrize("command", [["compare"], ["sweep", "--over", "seed=1,2"]])
def test_a_place_for_searches_that_cannot_work_is_refused(command: list[str], options: list[str], told: str) -> None:
    result = CliRunner().invoke(app, [command[0], QUICKSTART, *command[1:], *options])
    assert isinstance(result.exception, ConfigError)
    assert told in result.exception.problems[0]
    assert "secret" not in str(result.exception)


def test_the_printed_configuration_is_a_configuration(tmp_path: Path) -> None:
    printed = CliRunner().invoke(app, ["search", QUICKSTART, "--print-config"]).stdout
    (tmp_path / "printed.yaml").write_text(printed)
    assert load_config(str(tmp_path / "printed.yaml")) == load_config(QUICKSTART)
