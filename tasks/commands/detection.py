"""Detect the sub-datasets of a data folder, and the schema of their rows: prompt, completion, choices, metric."""

from __future__ import annotations

import itertools
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.data.columns import Rows, Template, choices_of, guess_template, is_text, turns_column
from tasks.data.files import FORMATS_IN_WORDS, format_of, read_rows, stem_of
from tasks.data.folder import data_files, shard_of, split_files
from tasks.data.forms import PLAIN, SAMPLE, Form, form_of, nearest_form
from tasks.data.templates import fill_template
from tasks.errors import InitError

# Common names of the three splits.
_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "testing", "heldout"),
}
_SPLIT_OF = {word: split for split, words in _WORDS.items() for word in words}
_SUFFIX = re.compile(rf"(?P<name>.+?)[._-](?P<word>{'|'.join(_SPLIT_OF)})$", re.IGNORECASE)
# Files about data that lie beside it in a copy of a hub's repository.
_NO_DATA = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json")
# Formats of data that are not read.
_UNREAD = frozenset(
    (
        *(".arrow", ".avro", ".bz2", ".feather", ".jsonlines", ".lz4", ".ndjson", ".orc", ".pickle", ".pkl", ".tar"),
        *(".tfrecord", ".txt", ".xls", ".xlsx", ".xz", ".zip"),
    )
)
# An exact match of a longer completion is unlikely.
_LONG_COMPLETION = 200


@dataclass(frozen=True)
class FolderData:
    """One sub-dataset of a folder: the file of each split; `train` is always among them.

    Shards are one path, without their numbers and endings, and so is a folder of them.
    """

    name: str
    files: Mapping[str, Path]


@dataclass(frozen=True)
class RowSchema:
    """How the rows of one sub-dataset are read.

    Attributes:
        columns: the columns that make up a row, in words.
        template: as in a configuration; None if the rows need no template.
        metric: the metric that `auto` resolves to, or `loss`.
        remark: the guess to check; empty if there is none.
    """

    columns: str
    template: Template | None
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
    found = list(_grouped(folder.resolve().name, folder))
    for path in _sub_folders(folder):
        if path.name.lower() in _SPLIT_OF and data_files(path):
            continue  # the shards of a split of `folder`
        inside = path / "data" if not data_files(path) and (path / "data").is_dir() else path
        found += _grouped(folder.resolve().name if path.name == "data" else path.name, inside, is_inside=True)
    if not found:
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:12]) or "nothing"
        raise InitError(
            f"folder {folder}",
            got=f"no data file in it or its sub-folders; it holds {there}",
            expected=f"files with the endings {FORMATS_IN_WORDS}",
            fix="convert the data to JSON lines, one row per line, and run the same command again",
        )
    for data in found:
        _require_train(folder, data)
    return _with_safe_names(sorted(found, key=lambda data: data.name))


def _sub_folders(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]


def _grouped(folder_name: str, folder: Path, *, is_inside: bool = False) -> Iterator[FolderData]:
    """Yield the sub-datasets of the files of one folder.

    Raises:
        InitError: two files are the same split of one sub-dataset.
    """
    groups: dict[str, dict[str, Path]] = {}
    _require_readable(folder)
    for name, path in _named_paths(folder):
        match = _SUFFIX.match(name)
        if (split := _SPLIT_OF.get(name.lower())) is not None:
            group = ""
        elif match is not None:
            group, split = match["name"], _SPLIT_OF[match["word"].lower()]
        elif path.is_dir():
            continue  # a sub-dataset of its own
        else:
            group, split = name, "train"
        known = groups.setdefault(group, {}).setdefault(split, path)
        if known != path:
            raise InitError(
                f"folder {folder}",
                got=f"{known.name} and {path.name}, both of which could be the {split} rows of {group or folder_name}",
                expected="one file, or the shards of one, for each split",
                fix="remove or rename the one that is not meant, and run the same command again",
            )
    for name, splits in groups.items():
        alone = len(groups) == 1
        own = f"{folder_name}-{name}" if is_inside and not alone else folder_name if is_inside else name
        yield FolderData(own if name else folder_name, splits)


def _named_paths(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (name without ending, path) of the data files of a folder, and of folders with a split's files."""
    for file in data_files(folder):
        shard = shard_of(file.name)
        # Without a total, numbers tell shards only after a split's name: `sales_2024` is a file of its own.
        if shard is not None and (shard.total is not None or _SUFFIX.match(f"-_{shard.base}")):
            yield shard.base, folder / shard.base
        elif file.name not in _NO_DATA:
            yield stem_of(file.name), file
    for path in _sub_folders(folder):
        if path.name.lower() in _SPLIT_OF and data_files(path):
            yield path.name, path


def _require_readable(folder: Path) -> None:
    """Raise where a file is named as a split and cannot be read: another split would be carved in its place."""
    for path in sorted(folder.iterdir()):
        name, _, _ = path.name.partition(".")
        is_split = name.lower() in _SPLIT_OF or _SUFFIX.match(name)
        if path.suffix.lower() in _UNREAD and format_of(path.name) is None and is_split and path.is_file():
            raise InitError(
                str(path),
                got=f"the ending {path.suffix}",
                expected=f"files with the endings {FORMATS_IN_WORDS}",
                fix="convert or remove the file, and run the same command again",
            )


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
    """Return the schema of the rows of a training file, or of the shards of one.

    Raises:
        DataError: a file cannot be read.
        InitError: the file has no rows, or no two columns of which one could be learned from the other.
    """
    rows = read_rows(name, split_files(name, file.parent, "train", file.name))
    sample = list(itertools.islice(rows, SAMPLE))
    if not sample:
        raise InitError(f"{file}", got="no rows", expected="one row per line", fix="add rows to the file, or remove it")
    longest = max(_num_characters(row) for row in sample)
    num_rows = len(sample)
    for row in rows:
        num_rows, longest = num_rows + 1, max(longest, _num_characters(row))
    form = _read_as(file, sample)
    template = dict(form.template) if form.template is not None else None
    return RowSchema(form.words, template, _metric_of(sample, form), num_rows, longest, _remark_of(form, sample))


def _read_as(file: Path, sample: Rows) -> Form:
    """Return the form of the rows, or one with a template by the columns' names."""
    form = form_of(sample)
    if form is not None and form is not PLAIN:
        return form
    if all(is_text(row.get("prompt")) and is_text(row.get("completion")) for row in sample):
        if any(row["prompt"][-1:].isspace() or row["completion"][:1].isspace() for row in sample):
            return PLAIN
        remark = "the space that the template adds between prompt and completion"
        template = {"prompt": "{prompt}", "completion": " {completion}", **choices_of(sample)}
        return Form(PLAIN.words, template=template, remark=remark)
    guessed = guess_template(sample)
    if (column := turns_column(sample)) is not None:
        raise InitError(
            f"{file}",
            got=f"one row a turn, with its speaker in the column {column}",
            expected="one row a chat",
            fix="put the turns of each chat into one row, messages: [{role, content}], and run the same command again",
        )
    if guessed is None:
        raise InitError(
            f"{file}",
            got=f"the columns {', '.join(sample[0]) or 'none'}",
            expected="prompt and completion, messages, or two columns with a value in each row",
            fix=f"{nearest_form(sample[0])}; then run the same command again",
        )
    template, to_check = guessed
    asked = ", ".join(re.findall(r"\{(.+?)\}", template["prompt"]))
    return Form(f"columns {asked} → {template['completion'].strip(' {}')}", template=template, remark=to_check)


def _remark_of(form: Form, sample: Rows) -> str:
    """Return the form's remark, with the columns that its template does not use."""
    if form.template is None:
        return form.remark
    written = str(form.template)
    left = [column for column in sample[0] if not re.search(rf"\b{re.escape(column)}\b", written)]
    return "; not used: ".join(text for text in (form.remark, ", ".join(left)) if text)


def _metric_of(sample: Rows, form: Form) -> str:
    if form.is_text:
        return "loss"
    if form.template is not None and form.template.keys() & {"choices", "options"}:
        return "multiple_choice"
    rows = [form.convert(row) if form.convert is not None else row for row in sample]
    if form.template is None and all(row.get("choices") for row in rows):
        return "multiple_choice"
    texts = [_completion_of(row, form) for row in rows if not _is_unanswered(row, form)]
    if all("####" in text for text in texts):
        return "numeric"
    return "loss" if statistics.median(len(text) for text in texts) > _LONG_COMPLETION else "exact_match"


def _is_unanswered(row: Mapping[str, Any], form: Form) -> bool:
    """Return whether a row lacks what its template names, for which `msft plan` refuses it (SQuAD 2)."""
    try:
        return form.template_config is not None and not fill_template(form.template_config, row)
    except (LookupError, TypeError, ValueError):
        return True


def _completion_of(row: Mapping[str, Any], form: Form) -> str:
    if form.template_config is not None:
        return fill_template(form.template_config, row).completion
    messages = row.get("messages")
    if isinstance(messages, list):
        last = messages[-1] if messages else {}
        return str(last.get("content", "")) if isinstance(last, dict) else ""
    return str(row.get("completion"))


def _num_characters(row: Mapping[str, Any]) -> int:
    return sum(len(str(value)) for value in row.values())
