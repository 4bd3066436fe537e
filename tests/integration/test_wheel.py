"""The installed package, from a wheel and without the clone, in a folder of the user's with names like ours."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
USER = "raise RuntimeError('a module of the user was taken for ours')\n"
# One round on rows by the dozen: the code of a whole search, and nothing else.
SMALL = (
    "training.max_length=64", "search.max_epochs=1", "search.compute_budget_epochs=1", "search.evals_per_epoch=1",
    "mixture.sub_datasets=[{name: max, synthetic: {skill: max, unique_rows: 16, validation_rows: 8, test_rows: 8}}]",
)  # fmt: skip
# The README's lines, on the small search.
_LINES = (ROOT / "README.md").read_text().partition("<!-- notebook -->\n```python\n")[2].partition("```")[0]
NOTEBOOK = f"""\
{_LINES.replace('"search.max_epochs=2"', ", ".join(map(repr, SMALL)))}
import flows, json, os
assert not flows.__file__.startswith({str(ROOT)!r}), flows.__file__
frames = {{name: len(getattr(result, name)) for name in ("curves", "decisions", "ledger")}}
print(json.dumps([os.path.isdir(result.champion), result.scores.to_dict("records"), frames]))
"""
Msft = Callable[..., str]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the unpacked wheel, as pip leaves it in site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    # Isolated, pip would fetch the build backend from an index.
    options = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *options, "-w", str(folder), str(ROOT)]
    subprocess.run(command, check=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the user's, whose own modules have the names of ours."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "flows").mkdir()
    for name in ("tasks", "flows/__init__", "flows/search"):
        (folder / f"{name}.py").write_text(USER)
    return folder


@pytest.fixture(scope="module")
def run(site: Path, work: Path, tmp_path_factory: pytest.TempPathFactory) -> Msft:
    """Run Python in the user's folder, with our dependencies and the wheel, and without the clone."""
    venv = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(venv), "platbase": str(venv)}))
    # A plain line adds the packages and not their .pth files, one of which may name the clone.
    paths = [str(site), *(path for path in sys.path if path.endswith("-packages"))]
    (own / "site.pth").write_text("".join(f"{path}\n" for path in paths))
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and "COV" not in name}

    def run_python(*arguments: str, expected: int = 0, **variables: str) -> str:
        command = [str(venv / "bin" / "python"), *arguments]
        environment = {**kept, "COLUMNS": "200", "NO_COLOR": "1", **variables}
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == expected, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run_python


@pytest.fixture(scope="module")
def msft(run: Msft, site: Path) -> Msft:
    """Run the command `msft` as pip installs it: a script outside of the user's folder."""
    script = site.parent / "msft"
    script.write_text("from flows.cli import main\nmain()\n")
    return lambda *arguments, **given: run(str(script), *arguments, **given)


def test_the_wheel_has_a_version_and_help(msft: Msft) -> None:
    assert msft("--version").startswith("msft 0.")
    assert "inspect" in msft("-h")


def test_an_unknown_name_is_told_the_examples(msft: Msft) -> None:
    told = msft("search", "nosuch", expected=2)
    assert "no such file; examples by name: held_out, held_out2, held_out3, paper10, paper15, paper5, quick" in told


@pytest.mark.parametrize("name", ["held_out3", "paper10"])
def test_examples_go_by_their_names(msft: Msft, site: Path, name: str) -> None:
    shown = yaml.safe_load(msft("search", name, "--print-config"))
    shipped = yaml.safe_load((site / "tasks" / "shipped" / "data" / f"{name}.yaml").read_text())
    names = [[part["name"] for part in one["mixture"]["sub_datasets"]] for one in (shown, shipped)]
    assert names[0] == names[1]


def test_a_file_of_the_user_comes_before_an_example(msft: Msft, work: Path) -> None:
    (work / "sixteen").write_text("seed: one\n")
    assert "sixteen: " in msft("plan", "sixteen", expected=2)


def test_a_notebook_search_from_the_wheel_gives_frames(run: Msft) -> None:
    # -P: in the user's folder itself, `import flows` finds the user's own.
    (answer,) = (line for line in run("-P", "-c", NOTEBOOK).splitlines() if line.startswith("["))
    has_champion, scores, frames = json.loads(answer)
    assert has_champion
    assert [row["split"] for row in scores] == ["validation", "test"]
    assert all(0 <= row["score"] <= 1 for row in scores)
    assert frames["curves"] > 1
    assert frames["decisions"] == 1
    assert frames["ledger"] >= 3


def test_the_example_folder_is_written_once_and_read(msft: Msft, work: Path) -> None:
    assert "next: msft plan my_data.yaml" in msft("init", "--example")
    assert sorted(file.name for file in (work / "my_data").iterdir()) == [
        "larger.jsonl",
        "reversed.jsonl",
        "sums.jsonl",
    ]
    rows = [json.loads(row) for row in msft("inspect", "my_data.yaml", "--json").splitlines() if row.startswith("{")]
    assert len(rows) == 3 * (360 + 120)
    assert {row["problem"] for row in rows} == {""}
    assert "a new or empty folder" in msft("init", "--example", expected=1)


def test_deploy_from_the_wheel_registers_its_files(msft: Msft, prefect_server: str) -> None:
    told = msft("deploy", "search-kubernetes", "--image", "msft:1", PREFECT_API_URL=prefect_server)
    assert "deployment msft-search-file/search-kubernetes: registered with pool msft-kubernetes" in told
    assert "automation" in told
