"""Write a commented configuration for a folder of data files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from tasks.commands.detection import FolderData, RowSchema, detect_schema, find_data
from tasks.config.loading import load_config
from tasks.data.files import read_rows
from tasks.data.folder import split_files
from tasks.errors import InitError
from tasks.runtime.files import write_file

# The smallest of the models that the paper reports on.
DEFAULT_MODEL = "Qwen/Qwen2.5-0.5B"
_VALIDATION_ROWS, _TEST_ROWS = 200, 500
# Rows of one forward pass: with 1,024 tokens and a vocabulary of 150,000, their float32 logits alone take 5 GB.
_MICRO_BATCH_SIZE = 8
# The preset msft_memory of `msft compare`, as YAML: the best of all measured methods with eight sub-datasets.
MSFT_PLUS = {
    "compute_budget_epochs": "1",
    "evals_per_epoch": "3",
    "options": "{rehearsal: 0.1, rehearse: correct, loss_guard: 0.05, peak_window: path}",
}


@dataclass(frozen=True)
class DraftPart:
    """One sub-dataset of the draft: its files, its rows' schema, and for each held-out split its rows or `carve`."""

    data: FolderData
    schema: RowSchema
    splits: Mapping[str, Any]


@dataclass(frozen=True)
class Draft:
    """A configuration file that was written, and the guesses in it."""

    path: str
    parts: tuple[DraftPart, ...]
    remarks: tuple[str, ...]


def write_draft(folder: str, out: str | None, model: str) -> Draft:
    """Write a configuration for the data of a folder, and return it with its guesses.

    Args:
        folder: holds the data files, or sub-folders of them.
        out: the YAML file; None: the folder's name, in the working directory. Paths in it are relative to it.
        model: the base model, in the form of `model.source`.
    Raises:
        InitError: the file exists already, or the folder holds nothing to learn from.
    """
    source = Path(folder)
    parts = [_part(data) for data in find_data(source)]
    path = Path(out or f"{source.resolve().name}.yaml")
    if path.exists():
        raise InitError(
            str(path),
            got="an existing file",
            expected="a new file; nothing is overwritten",
            fix=f"msft init {folder} --out OTHER.yaml, or move {path} away",
        )
    write_file(path, _render(path, source.resolve().name, model, parts))
    load_config(str(path))  # the file is valid as written
    remarks = [f"{part.data.name}: {part.schema.remark}" for part in parts if part.schema.remark]
    return Draft(str(path), tuple(parts), tuple(remarks))


def _part(data: FolderData) -> DraftPart:
    schema = detect_schema(data.name, data.files["train"])
    splits: dict[str, Any] = {}
    for split, most in (("validation", _VALIDATION_ROWS), ("test", _TEST_ROWS)):
        if split in data.files:
            file = data.files[split]
            files = split_files(data.name, file.parent, split, file.name)
            splits[split] = sum(1 for _ in read_rows(data.name, files))
        else:
            splits[split] = {"carve": max(1, min(most, schema.num_rows // 5))}
    return DraftPart(data, schema, splits)


def _render(path: Path, name: str, model: str, parts: Sequence[DraftPart]) -> str:
    """Return the configuration as text, from templates/config.yaml.j2."""
    environment = Environment(
        loader=PackageLoader("tasks.commands"), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    environment.filters["quote"] = lambda text: json.dumps(text, ensure_ascii=False)
    environment.filters["from_config"] = lambda target: _relative_to(path, target)
    num_rows = sum(part.schema.num_rows for part in parts)
    return environment.get_template("config.yaml.j2").render(
        path=path,
        name=_safe_name(name),
        model=_relative_to(path, Path(model)) if Path(model).exists() else model,
        parts=parts,
        # Four evaluations an epoch need at least four steps; the paper's 64 if the data is large enough.
        batch_size=max(4, min(64, 2 ** max(0, (num_rows // 32).bit_length() - 1))),
        micro_batch_size=_MICRO_BATCH_SIZE,
        max_length=_max_length(Path(model)),
        longest_row=max(part.schema.longest_row for part in parts),
        selects_by_loss=any(part.schema.metric == "loss" for part in parts),
        msft_plus=MSFT_PLUS,
    )


def _max_length(model: Path) -> int:
    config = model / "config.json"
    known = json.loads(config.read_text()).get("max_position_embeddings") if config.is_file() else None
    return min(1024, int(known)) if known else 1024


def _relative_to(config: Path, path: Path) -> str:
    """Return a path relative to the configuration file; absolute if it is three or more folders up."""
    relative = os.path.relpath(path.resolve(), config.resolve().parent)
    return str(path.resolve()) if relative.startswith(os.path.join("..", "..", "..")) else relative


def _safe_name(name: str) -> str:
    kept = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "_.-") else "_" for letter in name)
    return kept.lstrip("_.-")[:64] or "search"
