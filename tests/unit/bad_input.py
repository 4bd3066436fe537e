"""A case of bad input, and the place in which it writes its files and runs the real code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tasks.config.loading import load_config, parse_config
from tasks.config.schema import SearchConfig
from tasks.contracts import SubDatasetRef
from tasks.data.base_model import prepare_base_model
from tasks.data.inputs import prepare_sub_datasets
from tasks.errors import MsftError

GOOD = """
name: good
model: {source: base}
mixture:
  sub_datasets:
    - {name: first, path: first}
    - {name: second, path: second, splits: {validation: {carve: 20}, test: null}}
training: {batch_size: 8}
search: {max_epochs: 4}
"""
Content = str | bytes | Sequence[Mapping[str, Any]] | None


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"prompt": f"p {index}", "completion": f" {index}"} for index in range(start, start + count)]


@dataclass(frozen=True)
class Place:
    """A directory of one test, and the base model that it copies from."""

    directory: Path
    base: Path

    def write(self, name: str, content: Content) -> Path:
        """Write rows as JSON Lines, and text and bytes as they are."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            content = content.encode()
        elif not isinstance(content, bytes):
            content = "".join(json.dumps(row) + "\n" for row in content or ()).encode()
        path.write_bytes(content)
        return path

    def load(self, *overrides: str, text: str | bytes = GOOD) -> SearchConfig:
        return load_config(str(self.write("search.yaml", text)), overrides)

    def config(self, *sub_datasets: Mapping[str, Any], **sections: Mapping[str, Any]) -> SearchConfig:
        raw: dict[str, Any] = {
            "name": "test",
            "output_root": str(self.directory / "out"),
            "model": {"source": str(self.base)},
            "mixture": {"sub_datasets": list(sub_datasets)},
            "training": {"max_length": 128, "threads": 1},
            "search": {"max_epochs": 1},
            "config_dir": str(self.directory),
        }
        return parse_config(raw | {key: {**raw.get(key, {}), **sections[key]} for key in sections}, "test")

    def prepare(self, config: SearchConfig) -> tuple[SubDatasetRef, ...]:
        return prepare_sub_datasets(config, prepare_base_model(config))

    def read(self, sections: Mapping[str, Any], files: Mapping[str, Content], **sub: Any) -> SubDatasetRef:
        """Prepare one sub-dataset of these files; the splits that they leave out are good."""
        stems = {name.partition(".")[0] for name in files}
        good = {"validation.jsonl": rows(3, 100), "test.jsonl": rows(3, 200), "train.jsonl": rows(9)}
        left_out = {name: content for name, content in good.items() if name.partition(".")[0] not in stems}
        for name, content in {**files, **left_out}.items():
            if content is not None:
                self.write(f"data/{name}", content)
        return self.prepare(self.config({"name": "sub", "path": "data", **sub}, **sections))[0]

    def model(self, **edits: Content | Mapping[str, Any]) -> Path:
        """Return a copy of the base model; a file is replaced, removed (None), or its JSON keys set (a dict)."""
        copy = self.directory / "model"
        shutil.copytree(self.base, copy)
        for key, edit in edits.items():
            name = key.replace("__", ".")
            if isinstance(edit, Mapping):
                merged = json.loads((copy / name).read_text()) | edit
                edit = json.dumps({field: value for field, value in merged.items() if value is not None})
            if edit is None:
                (copy / name).unlink()
            else:
                self.write(f"model/{name}", edit)
        return copy

    def prepare_with(self, source: object, train: Content = None, **model: Any) -> SubDatasetRef:
        """Prepare good rows, or `train`, with another base model."""
        files = {"train.jsonl": train} if train is not None else {}
        return self.read({"model": {"source": str(source), **model}}, files)


class Case(NamedTuple):
    """An action, the error that it must raise, and parts of the message."""

    act: Callable[[Place], object]
    error: type[MsftError]
    parts: tuple[str, ...]


def outcome(error: type[MsftError], act: Callable[[], Any]) -> tuple[Any, str]:
    """Return the result and no message, or no result and the refusal; any other exception fails the test."""
    try:
        return act(), ""
    except error as refusal:
        return None, str(refusal)
