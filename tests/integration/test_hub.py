"""Models and data sets from the hub, which a server on this machine stands in for; nothing of ours is replaced.

The endpoint is read when `huggingface_hub` is imported, so that a process of its own loads what a test asks for.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from tasks.config.loading import load_config
from tasks.contracts import BaseModelRef
from tests.integration.hub_server import READ_ONLY, Hub, Repository, serving
from tests.unit.hub_rows import HUB_ROWS

PAPER10 = Path(__file__).parents[2] / "data" / "paper10.yaml"
# Prints what a model and each data set became, or how each was refused.
LOAD = """
import json, sys
from tasks.config.loading import load_config
from tasks.data.base_model import prepare_base_model
from tasks.data.sources import read_splits
from tasks.errors import MsftError
path, kind, *overrides = sys.argv[1:]
config, told = load_config(path, overrides), {}
if kind in ("model", "both"):
    try:
        model = prepare_base_model(config)
        told["model"] = [model.directory, model.vocab_size]
    except MsftError as error:
        told["model"] = str(error)
for part in config.mixture.sub_datasets if kind in ("rows", "both") else ():
    try:
        splits = read_splits(config, part)
        shown = [[e.prompt, e.completion, list(e.choices)] for e in splits["test"]]
        told[part.name] = [{split: len(rows) for split, rows in splits.items()}, shown]
    except MsftError as error:
        told[part.name] = str(error)
print(json.dumps(told))
"""
Load = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def hub(tiny_base: BaseModelRef) -> Iterator[Hub]:
    """A hub with the ten data sets of paper10.yaml, at its revisions, and a model in two shards."""
    hub = Hub()
    for part in load_config(str(PAPER10)).mixture.sub_datasets:
        assert part.hub is not None
        assert part.revision is not None
        hub.datasets[part.hub] = Repository(_dataset(part.name, part.hub_config), part.revision)
    hub.models["ours/tiny"] = Repository(_in_shards(Path(tiny_base.directory)))
    hub.renamed["old/tiny"] = "ours/tiny"
    for status in (401, 403):
        for repositories in (hub.models, hub.datasets):
            repositories[f"gated/by{status}"] = Repository({"config.json": b"{}"}, gate=status)
    with serving(hub):
        yield hub


def _dataset(name: str, config_name: str | None) -> dict[str, bytes]:
    """Return the files of a data set as the hub's own conversion lays them out, with 310 train rows."""
    rows, _ = HUB_ROWS[name]
    folder = config_name or "data"
    text = next(key for key in ("question", "question_stem", "sentence", "ctx") if key in rows[0])
    many = [{**rows[i % len(rows)], text: f"{rows[i % len(rows)][text]} ({i})"} for i in range(310)]
    card = {"config_name": config_name or "default", "data_files": []}
    files = {}
    for split, content in (("train", many), ("validation", rows), ("test", rows)):
        file = f"{folder}/{split}-00000-of-00001.parquet"
        buffer = io.BytesIO()
        parquet.write_table(pyarrow.Table.from_pylist(content), buffer)
        files[file] = buffer.getvalue()
        card["data_files"].append({"split": split, "path": f"{folder}/{split}-*"})
    files["README.md"] = f"---\nconfigs: {json.dumps([card])}\n---\nRows of our own.\n".encode()
    return files


def _in_shards(directory: Path) -> dict[str, bytes]:
    """Return the files of a model with its weights in two safetensors files, as the hub has large ones."""
    from safetensors.numpy import load_file, save

    tensors = load_file(directory / "model.safetensors")
    names = sorted(tensors)
    parts = (names[: len(names) // 2], names[len(names) // 2 :])
    files = {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix == ".json"}
    weight_map = {}
    for number, part in enumerate(parts, start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        # The client writes 10 MB at a time, and resumes after what it has written.
        metadata = {"format": "pt", "padding": "x" * (24 << 20 if number == 2 else 0)}
        files[file] = save({name: tensors[name] for name in part}, metadata)
        weight_map |= dict.fromkeys(part, file)
    size = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    return files | {"model.safetensors.index.json": json.dumps(index).encode(), "README.md": b"not for us"}


def _environment(endpoint: str, tmp_path: Path) -> dict[str, str]:
    """Return this process's environment with the hub at an address, and nothing of what it says of another hub."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING")) and "proxy" not in k.lower()}
    return kept | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}


@pytest.fixture
def load(hub: Hub, tmp_path: Path) -> Load:
    """Return a function that loads with a cache of the test's own."""

    def load_in_child(
        kind: str, *overrides: str, path: Path = PAPER10, endpoint: str = "", **variables: str
    ) -> dict[str, Any]:
        environment = _environment(endpoint or hub.url, tmp_path) | variables
        command = [sys.executable, "-c", LOAD, str(path), kind, *overrides]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return dict(json.loads(done.stdout.splitlines()[-1]))

    return load_in_child


def test_a_sharded_model_resumes_after_a_dropped_connection(hub: Hub, load: Load, tiny_base: BaseModelRef) -> None:
    dropped = "model-00002-of-00002.safetensors"
    hub.drops.add(dropped)
    directory, vocab_size = load("model", "model.source=old/tiny", HF_TOKEN="hf_x")["model"]
    served = hub.models["ours/tiny"].files
    assert {path.name: path.read_bytes() for path in Path(directory).iterdir()} == {
        name: content for name, content in served.items() if name != "README.md"
    }
    assert vocab_size == json.loads(served["config.json"])["vocab_size"]
    first, *others = hub.ranges_of(dropped)
    assert first == ""
    assert [bool(re.fullmatch(r"bytes=[1-9]\d*-", other)) for other in others] == [True]


def test_the_ten_datasets_of_the_paper_are_read_from_a_hub(hub: Hub, load: Load) -> None:
    hub.drops.add("main/train-00000-of-00001.parquet")
    told = load("rows")
    assert list(told) == [part.name for part in load_config(str(PAPER10)).mixture.sub_datasets]
    for name, (counts, test) in told.items():
        expected = [[prompt, completion, list(choices)] for prompt, completion, choices in HUB_ROWS[name][1]]
        assert counts == {"train": 10, "validation": 300, "test": len(expected)}, name
        assert test == expected or name == "sciq"  # whose options are drawn by the row's place
    assert not hub.drops


def test_a_refused_model_is_told_with_cause_and_cure(load: Load) -> None:
    for source, token, cause, cure in (
        ("gated/by401", "", "Cannot access gated repo", "ask for access on its page on the hub, and log in"),
        ("gated/by403", "hf_x", "Cannot access gated repo", "ask for access on its page on the hub, and log in"),
        ("no/such", "", "Repository Not Found", "check the id; if it is private, log in"),
        ("no/such", "hf_x", "Repository Not Found", "check the id; if it is private, log in"),
    ):
        told = load("model", f"model.source={source}", **({"HF_TOKEN": token} if token else {}))["model"]
        assert cause in told
        assert cure in told


def test_refused_datasets_are_told_with_cause_and_cure(load: Load, tmp_path: Path) -> None:
    sources = [("gated/by401", None), ("gated/by403", None), ("no/such", None), ("google/boolq", "f" * 40)]
    told = load("rows", path=_mixture(tmp_path, *sources))
    for name, cause, cure in (
        ("gated-by401", "is a gated dataset", "ask for access"),
        ("gated-by403", "is a gated dataset", "ask for access"),
        ("no-such", "doesn't exist", "check the id; if it is private, log in"),
        ("google-boolq-at", "Revision 'ffff", "set revision to a branch, tag or commit"),
    ):
        assert cause in told[name]
        assert cure in told[name]


def test_a_hub_that_is_not_reached_is_told(load: Load, tmp_path: Path) -> None:
    path = _mixture(tmp_path, ("ours/rows", None))
    told = load("both", "model.source=ours/tiny", path=path, endpoint="http://127.0.0.1:9")
    assert "Connection refused" in told["model"]
    assert "Couldn't reach" in told["ours-rows"]
    assert all("check the network and HF_ENDPOINT" in text for text in told.values())


def test_a_download_that_is_lost_for_good_is_told(hub: Hub, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "gone", {"model-00002-of-00002.safetensors"})
    told = load("model", "model.source=ours/tiny")["model"]
    assert "check the network and HF_ENDPOINT" in told


def test_a_champion_is_pushed_to_a_private_repository(hub: Hub, load: Load, searched: Any, tmp_path: Path) -> None:
    config, champion = searched

    def push(token: str) -> subprocess.CompletedProcess[str]:
        environment = _environment(hub.url, tmp_path) | {"HF_TOKEN": token}
        command = [sys.executable, "-m", "flows.cli", "export", config.name, "--to", "hub:ours/champion", "--json"]
        command += ["--output-root", config.output_root]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)

    refused = push(READ_ONLY)
    assert refused.returncode == 1
    assert "hf auth login" in refused.stderr
    assert "ours/champion" not in hub.models
    for number in (1, 2):  # the second time into the repository that is there
        done = push("hf_x")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["to"] == f"{hub.url}/ours/champion"
        assert len(hub.models["ours/champion"].messages) == number
    pushed = hub.models["ours/champion"]
    assert pushed.is_private
    assert pushed.messages[0].startswith("Champion of smoke-")
    assert pushed.files == {path.name: path.read_bytes() for path in Path(champion.directory).iterdir()}
    loaded, _ = load("model", "model.source=ours/champion", HF_TOKEN="hf_x")["model"]
    weights = "model.safetensors"
    assert Path(loaded, weights).read_bytes() == Path(champion.directory, weights).read_bytes()


def _mixture(tmp_path: Path, *sources: tuple[str, str | None]) -> Path:
    # One split to read: the client tries for half a minute to reach a hub, for each.
    one = {"template": {"prompt": "a", "completion": "{b}"}, "splits": {"validation": {"carve": 1}, "test": None}}
    parts = [
        {"name": source.replace("/", "-") + ("-at" if revision else ""), "hub": source, "revision": revision, **one}
        for source, revision in sources
    ]
    path = tmp_path / "mixture.yaml"
    rest = {"model": {"source": "none"}, "search": {"max_epochs": 2}}
    path.write_text(json.dumps({"name": "x", "mixture": {"sub_datasets": parts}, **rest}))
    return path
