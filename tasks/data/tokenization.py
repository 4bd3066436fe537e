"""Tokenize a split once; the cache is keyed by content."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from tasks.contracts import SplitRef
from tasks.data.encoder import Encoder
from tasks.data.examples import Example, fingerprint
from tasks.data.problems import Problems
from tasks.errors import DataError
from tasks.runtime.files import publish_folder

logger = logging.getLogger(__name__)

# Rows that are held in memory before they are written.
_WRITTEN_ROWS = 1_000


def tokenize_split(
    encoder: Encoder, name: str, split: str, examples: Sequence[Example], cache: Path, on_too_long: str
) -> SplitRef:
    """Return the tokenized split, from `cache` where it has the same content.

    Args:
        name, split: sub-dataset and split, for messages.
        on_too_long: `drop` or `error`, for a row longer than the encoder's max_length.

    Raises:
        DataError: a row is too long or cannot be encoded, or no row is left.
    """
    texts = fingerprint(examples)
    key = hashlib.sha256(f"{texts}/{encoder.fingerprint}/{encoder.max_length}/{on_too_long}".encode()).hexdigest()
    directory = cache / key[:32]
    if not (directory / "split.json").is_file():
        _publish(_usable_rows(encoder, name, split, examples, on_too_long), directory, texts)
    meta: dict[str, Any] = json.loads((directory / "split.json").read_text())
    for note, count in meta.pop("notes").items():
        logger.warning(f"{name}/{split}: {note}, in {count} of {meta['num_rows']} rows; msft inspect shows them")
    return SplitRef(directory=str(directory.resolve()), **meta)


def read_tokenized(split: SplitRef) -> Any:
    """Return the rows of a tokenized split."""
    import datasets

    return datasets.load_from_disk(split.directory)


def _usable_rows(
    encoder: Encoder, name: str, split: str, examples: Sequence[Example], on_too_long: str
) -> Iterator[dict[str, Any]]:
    """Yield the rows that fit; raise at the end if some cannot be used, or none is left."""
    num_kept = 0
    problems = Problems()
    for index, (example, row) in enumerate(zip(examples, encoder.encode_all(examples), strict=True)):
        where = f"{split} row {index}"
        if isinstance(row, Exception):
            problems.add(_unusable(name, where, example, row))
        elif row["num_tokens"] <= encoder.max_length:
            num_kept += 1
            yield row
        elif on_too_long == "error":
            problems.add(too_long(encoder, name, where, example, row))
    problems.check()
    if not num_kept:
        raise DataError(
            name,
            split,
            got="every row is longer than training.max_length",
            expected="at least one row that fits",
            fix="raise training.max_length",
        )


def _unusable(name: str, where: str, example: Example, cause: Exception) -> DataError:
    """Return the error for a row that cannot be learned and scored."""
    error = DataError(
        name,
        _located(where, example),
        got=" ".join(str(cause).split())[:400],
        expected="a row that the tokenizer (and, for messages, its chat template) can encode",
        fix="fix the row, or set model.tokenizer to one that fits; messages need one with a chat template, "
        "or model.chat_template",
    )
    error.__cause__ = cause
    return error


def too_long(encoder: Encoder, name: str, where: str, example: Example, row: Mapping[str, Any]) -> DataError:
    """Return the error for a row of more tokens than fit."""
    return DataError(
        name,
        _located(where, example),
        got=f"{row['num_tokens']} tokens ({row['prompt_length']} of them prompt)",
        expected=f"at most training.max_length = {encoder.max_length}",
        fix="raise training.max_length, shorten the row, or --set mixture.on_too_long=drop",
    )


def _located(where: str, example: Example) -> str:
    return f"{where} ({example.where})" if example.where else where


def _publish(rows: Iterator[dict[str, Any]], directory: Path, texts: str) -> None:
    """Write rows as they come, some at a time in memory, and publish the split once they have all been."""
    import datasets
    import pyarrow as pa

    datasets.disable_progress_bars()
    schema = _features().arrow_schema

    def write(staging: Path) -> None:
        meta: dict[str, Any] = {"num_rows": 0, "num_tokens": 0, "sha256": texts, "notes": Counter()}
        stream = staging / "stream" / "rows.arrow"
        stream.parent.mkdir()
        with pa.OSFile(str(stream), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
            while block := list(islice(rows, _WRITTEN_ROWS)):
                meta["num_rows"] += len(block)
                meta["num_tokens"] += sum(row["num_tokens"] for row in block)
                meta["notes"].update(note for row in block for note in row.pop("notes"))
                writer.write_table(pa.Table.from_pylist(block, schema))
        datasets.Dataset.from_file(str(stream)).save_to_disk(str(staging))
        shutil.rmtree(stream.parent)
        (staging / "split.json").write_text(json.dumps(meta))

    publish_folder(directory, write, "a tokenized split")


def publish_rows(rows: Iterator[dict[str, Any]], directory: Path, texts: str) -> SplitRef:
    """Return rows, with their columns and `notes`, as a tokenized split in `directory`; one that is there stays.

    Args:
        texts: fingerprint of the rows.
    """
    if not (directory / "split.json").is_file():
        _publish(rows, directory, texts)
    meta: dict[str, Any] = json.loads((directory / "split.json").read_text())
    del meta["notes"]
    return SplitRef(directory=str(directory.resolve()), **meta)


def longest_completion(split: SplitRef) -> int:
    """Return the most tokens of a completion of the split, its end included."""
    import datasets

    columns = datasets.load_from_disk(split.directory).with_format("numpy", columns=["num_tokens", "prompt_length"])
    return int(max(columns["num_tokens"][:] - columns["prompt_length"][:]))


def _features() -> Any:
    from datasets import Features, List, Value

    return Features(
        input_ids=List(Value("int32")),
        loss_mask=List(Value("int8")),
        prompt_length=Value("int32"),
        choice_ids=List(List(Value("int32"))),
        choices=List(Value("string")),
        gold=Value("int32"),
        completion=Value("string"),
        answer=Value("string"),
        num_tokens=Value("int32"),
    )
