"""Write a commented configuration for a folder of data files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.commands.data_folder import FoundData, find_data
from tasks.commands.detection import RowForm, guess_form
from tasks.config.loading import load_config
from tasks.data.files import read_rows
from tasks.errors import InitError
from tasks.runtime.files import write_file

# The smallest of the models that the paper reports on.
DEFAULT_MODEL = "Qwen/Qwen2.5-0.5B"
_VALIDATION_ROWS, _TEST_ROWS = 200, 500
# Rows of one forward pass: with 1,024 tokens and a vocabulary of 150,000, their float32 logits alone take 5 GB.
_MICRO_BATCH_SIZE = 8
# What `msft compare` calls msft_memory, as YAML: of all that was measured the best with eight sub-datasets.
MSFT_PLUS = {
    "compute_budget_epochs": "1",
    "evals_per_epoch": "3",
    "options": "{rehearsal: 0.1, rehearse: answered, loss_guard: 0.05, memory: true}",
}


@dataclass(frozen=True)
class DraftPart:
    """One sub-dataset of the draft: its files, the form of its rows, and how each split comes about."""

    data: FoundData
    form: RowForm
    splits: Mapping[str, Any]


@dataclass(frozen=True)
class Draft:
    """A configuration that was written, and what was guessed for it."""

    path: str
    parts: tuple[DraftPart, ...]
    remarks: tuple[str, ...]


def write_draft(folder: str, out: str | None, model: str) -> Draft:
    """Write a configuration for the data of `folder`, and return what was guessed.

    Args:
        out: the YAML file; None: the folder's name, where one stands. Paths in it count from it.
        model: base model as `model.source` takes it.
    Raises:
        InitError: the file is there already, or the folder holds nothing to learn from.
    """
    source = Path(folder)
    parts = [_part(data) for data in find_data(source)]
    path = Path(out or f"{source.resolve().name}.yaml")
    if path.exists():
        raise InitError(
            str(path),
            got="a file that is there already",
            wanted="a new file; nothing is overwritten",
            fix=f"msft init {folder} --out OTHER.yaml, or move {path} away",
        )
    write_file(path, "\n".join(_lines(path, source.resolve().name, model, parts)) + "\n")
    load_config(str(path))  # what we write is what we read
    remarks = [f"{part.data.name}: {part.form.remark}" for part in parts if part.form.remark]
    return Draft(str(path), tuple(parts), tuple(remarks))


def _part(data: FoundData) -> DraftPart:
    form = guess_form(data.name, data.files["train"])
    splits: dict[str, Any] = {}
    for split, most in (("validation", _VALIDATION_ROWS), ("test", _TEST_ROWS)):
        if split in data.files:
            splits[split] = sum(1 for _ in read_rows(data.name, data.files[split]))
        else:
            splits[split] = {"carve": max(1, min(most, form.num_rows // 5))}
    return DraftPart(data, form, splits)


def _lines(path: Path, name: str, model: str, parts: Sequence[DraftPart]) -> Iterator[str]:
    by_loss = any(part.form.metric == "loss" for part in parts)
    local = Path(model)
    yield f"# Written by `msft init`. Every option: msft search {path} --print-config"
    yield f"name: {_quoted(_safe(name))}"
    yield "seed: 0"
    yield "model:"
    yield "  # A hub id, a directory, a .gguf file, or package:NAME/FILE. A relative path counts from this file."
    yield f"  source: {_quoted(_from(path, local) if local.exists() else model)}"
    yield "mixture:"
    yield "  # Each row once an epoch; `equal` gives each sub-dataset the same share."
    yield "  proportions: by_size"
    yield "  sub_datasets:"
    for part in parts:
        yield from _sub_dataset_lines(path, part)
    yield from _training_lines(local, parts)
    if by_loss:
        yield "# Some completions are too long to be repeated word for word, so all are compared by their loss."
        yield "evaluation:"
        yield "  selection: loss"
    yield "search:"
    yield "  # In epochs of the whole mixture, what is discarded counted: enough to exclude one a round to the last."
    yield f"  max_epochs: {len(parts) + 1}"
    yield from _method_lines()


def _method_lines() -> Iterator[str]:
    """Write both searches so that the other one needs `# ` taken away and nothing else: no key may stand twice."""
    yield "  # As it stands, the paper's search: rounds of C = 2 epochs, scored 4 times in each; what overfits earliest"
    yield "  # in one leaves. With all three lines below, mSFT+ with memory: what left stays at a tenth of its share,"
    yield "  # with the rows answered as labelled; only what also rose in loss leaves; each is held to its best on the"
    yield "  # whole path, not in one roll-out alone. Measured ahead of plain fine-tuning with the same averaging where"
    yield "  # some of 8 overfit, equal where none did; without memory behind with 15."
    yield from (f"  # {key}: {value}" for key, value in MSFT_PLUS.items())


def _sub_dataset_lines(path: Path, part: DraftPart) -> Iterator[str]:
    files, form = part.data.files, part.form
    folder = files["train"].parent
    yield f"    - name: {_quoted(part.data.name)}  # {form.num_rows} training rows of {form.form}"
    yield f"      path: {_quoted(_from(path, folder))}"
    yield "      splits:"
    yield f"        train: {_quoted(files['train'].name)}"
    for split in ("validation", "test"):
        if split in files:
            yield f"        {split}: {_quoted(files[split].name)}  # {part.splits[split]} rows"
        else:
            yield f"        {split}: {{carve: {part.splits[split]['carve']}}}  # taken out of train by the seed"
    if form.template is not None:
        yield f"      template:  # {form.remark}"
        for key, text in form.template.items():
            yield f"        {key}: {_quoted(text)}"
    explicit = form.metric if form.metric == "loss" else "auto"
    found = "" if form.metric == "loss" else f"  # will find {form.metric}"
    yield f"      metric: {explicit}{found}"


def _training_lines(model: Path, parts: Sequence[DraftPart]) -> Iterator[str]:
    num_rows = sum(part.form.num_rows for part in parts)
    # Four evaluations an epoch want four steps or more; the paper's 64 where the data is large enough.
    batch_size = max(4, min(64, 2 ** max(0, (num_rows // 32).bit_length() - 1)))
    longest = max(part.form.longest_row for part in parts)
    yield "training:"
    yield "  # The paper's, for models of 0.5 to 8 billion parameters; small ones want more, e.g. 3.0e-4."
    yield "  learning_rate: 1.0e-5"
    yield f"  batch_size: {batch_size}  # rows an optimizer step"
    if batch_size > _MICRO_BATCH_SIZE:
        yield f"  micro_batch_size: {_MICRO_BATCH_SIZE}  # of them at once: changes memory and speed, but no result"
    yield "  # On a GPU (NVIDIA: since Ampere): faster, and half the memory for activations; weights stay in fp32."
    yield "  # precision: bf16"
    yield "  # Scores and exports a moving average of the weights: measured worth 3 points, with any method."
    yield "  ema: 0.99"
    yield f"  max_length: {_max_length(model)}  # tokens a row; the longest row here has {longest:,} characters"


def _max_length(model: Path) -> int:
    config = model / "config.json"
    known = json.loads(config.read_text()).get("max_position_embeddings") if config.is_file() else None
    return min(1024, int(known)) if known else 1024


def _from(config: Path, path: Path) -> str:
    """Return a path as it counts from the configuration; one that lies far off, from the root."""
    relative = os.path.relpath(path.resolve(), config.resolve().parent)
    return str(path.resolve()) if relative.startswith(os.path.join("..", "..", "..")) else relative


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _safe(name: str) -> str:
    kept = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "_.-") else "_" for letter in name
    )
    return kept.lstrip("_.-")[:64] or "search"
