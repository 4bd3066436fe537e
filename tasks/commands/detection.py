"""Detect the sub-datasets of a data folder, and the schema of their rows: prompt, completion, choices, metric."""

from __future__ import annotations

import itertools
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.data.files import FORMATS, read_rows
from tasks.errors import InitError

# Common names of the three splits.
_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "testing", "heldout"),
}
_SPLIT_OF = {word: split for split, words in _WORDS.items() for word in words}
_SUFFIX = re.compile(rf"(?P<name>.+?)[._-](?P<word>{'|'.join(_SPLIT_OF)})$", re.IGNORECASE)
_SAMPLE = 200
# An exact match of a longer completion is unlikely.
_LONG_COMPLETION = 200
_PROMPT_COLUMNS = (
    *("instruction", "question", "query", "problem", "prompt", "context", "passage", "premise"),
    *("hypothesis", "sentence", "text", "input", "source", "document", "article"),
)
_COMPLETION_COLUMNS = (*("completion", "output", "answer", "response", "target", "label", "solution", "summary"),)
_CHOICES_COLUMNS = ("choices", "options")


@dataclass(frozen=True)
class FolderData:
    """One sub-dataset of a folder: the file of each split; `train` is always among them."""

    name: str
    files: Mapping[str, Path]


@dataclass(frozen=True)
class RowSchema:
    """How the rows of one sub-dataset are read.

    Attributes:
        columns: the columns that make up a row, in words.
        template: prompt and completion (and choices); None if the rows need no template.
        metric: the metric that `auto` resolves to, or `loss`.
        remark: the guess to check; empty if there is none.
    """

    columns: str
    template: Mapping[str, str] | None
    metric: str
    num_rows: int
    longest_row: int
    remark: str = ""


def find_data(folder: Path) -> list[FolderData]:
    """Return the sub-datasets of a folder, sorted by name.

    A sub-dataset is a sub-folder with data files, a single file, or a group of files `NAME_train`, `NAME_validation`,
    `NAME_test`. A folder that holds split files only is one sub-dataset.

    Raises:
        InitError: there is no data file, or a sub-dataset has no training rows.
    """
    if not folder.is_dir():
        got = "a file" if folder.exists() else "no such folder"
        fix = "msft init FOLDER, with the folder of your data"
        raise InitError(f"folder {folder}", got=got, expected="a folder of data files", fix=fix)
    found = list(_grouped(folder.resolve().name, _data_files(folder)))
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            found += _grouped(path.name, _data_files(path), inside=path.name)
    if not found:
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:12]) or "nothing"
        raise InitError(
            f"folder {folder}",
            got=f"no data file in it or its sub-folders; it holds {there}",
            expected=f"files with the endings {', '.join(FORMATS)}",
            fix="convert the data to JSON lines, one row per line, and run the same command again",
        )
    for data in found:
        _require_train(folder, data)
    return _with_safe_names(sorted(found, key=lambda data: data.name))


def _data_files(folder: Path) -> list[Path]:
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in FORMATS]
    return [path for path in files if path.is_file() and not path.name.startswith(".")]


def _grouped(folder_name: str, files: Sequence[Path], inside: str = "") -> Iterator[FolderData]:
    """Yield the sub-datasets of the files of one folder."""
    groups: dict[str, dict[str, Path]] = {}
    for file in files:
        stem = file.stem
        match = _SUFFIX.match(stem)
        if (split := _SPLIT_OF.get(stem.lower())) is not None:
            groups.setdefault("", {})[split] = file
        elif match is not None:
            groups.setdefault(match["name"], {})[_SPLIT_OF[match["word"].lower()]] = file
        else:
            groups.setdefault(stem, {})["train"] = file
    for name, splits in groups.items():
        alone = len(groups) == 1
        own = f"{inside}-{name}" if inside and not alone else inside or name
        yield FolderData(own if name else folder_name, splits)


def _require_train(folder: Path, data: FolderData) -> None:
    if "train" not in data.files:
        files = ", ".join(str(path.relative_to(folder)) for path in data.files.values())
        raise InitError(
            f"sub-dataset {data.name!r} in {folder}",
            got=f"{files}, and no file of training rows",
            expected="a file named train (or NAME_train) next to them",
            fix="rename the file that holds the training rows, and run the same command again",
        )


def _with_safe_names(found: Sequence[FolderData]) -> list[FolderData]:
    """Rename the sub-datasets to unique names that a configuration accepts."""
    taken: set[str] = set()
    safe = []
    for data in found:
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", data.name).lstrip("_.-")[:60] or "data"
        number = 2
        while name in taken:
            name, number = f"{name.removesuffix(f'_{number - 1}')}_{number}", number + 1
        taken.add(name)
        safe.append(FolderData(name, data.files))
    return safe


def detect_schema(name: str, file: Path) -> RowSchema:
    """Return the schema of the rows of a training file.

    Raises:
        DataError: the file cannot be read.
        InitError: the file has no rows, or no two columns of which one could be learned from the other.
    """
    rows = read_rows(name, [file])
    sample = list(itertools.islice(rows, _SAMPLE))
    if not sample:
        raise InitError(f"{file}", got="no rows", expected="one row per line", fix="add rows to the file, or remove it")
    longest = max(_num_characters(row) for row in sample)
    num_rows = len(sample)
    for row in rows:
        num_rows, longest = num_rows + 1, max(longest, _num_characters(row))
    columns, template, remark = _read_as(file, sample)
    return RowSchema(columns, template, _metric_of(sample, template), num_rows, longest, remark)


def _read_as(file: Path, sample: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, str] | None, str]:
    """Return the columns in words, the template if one is needed, and a remark."""
    if all(isinstance(row.get("messages"), list) for row in sample):
        return "messages", None, ""
    if all(_is_text(row.get("prompt")) and _is_text(row.get("completion")) for row in sample):
        if any(row["prompt"][-1:].isspace() or row["completion"][:1].isspace() for row in sample):
            return "prompt and completion", None, ""
        remark = "the space that the template adds between prompt and completion"
        template = {"prompt": "{prompt}", "completion": " {completion}"}
        return "prompt and completion", {**template, **_choices_of(sample)}, remark
    return _from_columns(file, sample)


def _from_columns(file: Path, sample: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, str], str]:
    """Choose prompt and completion by the columns' names; without known names, the first and the last column."""
    columns = [name for name in sample[0] if all(_is_value(row.get(name)) for row in sample)]
    usable = [name for name in columns if _is_field(name)]
    target = next((name for name in _COMPLETION_COLUMNS if name in _lowered(usable)), "")
    asked = [name for name in _PROMPT_COLUMNS if name in _lowered(usable) and name != target]
    certain = bool(target and asked)
    actual = {name.lower(): name for name in reversed(usable)}
    if not certain and len(usable) >= 2:
        target, asked = usable[-1].lower(), [usable[0].lower()]
    if not (target and asked):
        raise InitError(
            f"{file}",
            got=f"the columns {', '.join(sample[0]) or 'none'}",
            expected="prompt and completion, messages, or two columns with a value in each row",
            fix='rename the columns, e.g. to {"prompt": …, "completion": …}, and run the same command again',
        )
    prompt = "\n".join(f"{{{actual[name]}}}" for name in asked)
    template = {"prompt": f"{prompt}\nAnswer:", "completion": f" {{{actual[target]}}}", **_choices_of(sample)}
    named = f"columns {', '.join(actual[name] for name in asked)} → {actual[target]}"
    left = [name for name in sample[0] if name.lower() not in (*asked, target, *_CHOICES_COLUMNS)]
    to_check = "the wording of the template" if certain else "the columns, guessed from their order"
    remark = f"{to_check}; not used: {', '.join(left)}" if left else to_check
    return named, template, remark


def _choices_of(sample: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the column of choices if every row has a list of them."""
    for column in _CHOICES_COLUMNS:
        if all(isinstance(row.get(column), list) and len(row[column]) > 1 for row in sample):
            return {"choices": column}
    return {}


def _metric_of(sample: Sequence[Mapping[str, Any]], template: Mapping[str, str] | None) -> str:
    texts = [_completion_of(row, template) for row in sample]
    if template is None and all(row.get("choices") for row in sample):
        return "multiple_choice"
    if template is not None and "choices" in template:
        return "multiple_choice"
    if all("####" in text for text in texts):
        return "numeric"
    return "loss" if statistics.median(len(text) for text in texts) > _LONG_COMPLETION else "exact_match"


def _completion_of(row: Mapping[str, Any], template: Mapping[str, str] | None) -> str:
    if template is not None:
        return template["completion"].format_map(row)
    if "messages" in row:
        last = row["messages"][-1] if row["messages"] else {}
        return str(last.get("content", "")) if isinstance(last, dict) else ""
    return str(row["completion"])


def _lowered(names: Sequence[str]) -> set[str]:
    return {name.lower() for name in names}


def _is_field(column: str) -> bool:
    """Return whether a format string can name the column."""
    return bool(column) and not column[0].isdigit() and not any(mark in column for mark in "{}[].!:")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_value(value: Any) -> bool:
    return _is_text(value) or (isinstance(value, int | float) and not isinstance(value, bool))


def _num_characters(row: Mapping[str, Any]) -> int:
    return sum(len(str(value)) for value in row.values())
