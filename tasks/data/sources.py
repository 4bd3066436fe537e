"""Read the rows of a sub-dataset from a file, a folder, the hub or a generator, as `Example`s."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.config.schema import SearchConfig
from tasks.config.sub_datasets import Carve, SubDatasetConfig
from tasks.data.files import FORMATS, open_file
from tasks.data.randomness import random_state
from tasks.data.templates import fill_template
from tasks.errors import DataError

SPLITS = ("train", "validation", "test")
_ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True)
class Example:
    """A row: a prompt and its completion, or a chat.

    Attributes:
        prompt, completion: texts; the completion includes its leading space. Of a chat, the completion is the last
            assistant's message, and the prompt is the text of all messages before it.
        choices: full completions of which `completion` is one; empty where the row has none.
        answer: the text with the numeric answer, or with the letter of a choice in the completion.
        messages: (role, content) pairs of a chat; empty for a plain row.
    """

    prompt: str
    completion: str
    answer: str
    choices: tuple[str, ...] = ()
    messages: tuple[tuple[str, str], ...] = ()


def read_splits(config: SearchConfig, sub_dataset: SubDatasetConfig) -> dict[str, list[Example]]:
    """Return the examples of each split of the sub-dataset; there is no `test` where it has none.

    Carved splits are drawn from train by the seed, with all rows of a prompt at a time; never from test.

    Raises:
        DataError: a file, column or row is unusable; names the row.
    """
    wanted = {split: getattr(sub_dataset.splits, split) for split in SPLITS}
    named = {split: name for split, name in wanted.items() if isinstance(name, str)}
    splits = {split: _read_named(config, sub_dataset, split, name) for split, name in named.items()}
    for split in ("test", "validation"):
        if isinstance(carve := wanted[split], Carve):
            splits["train"], splits[split] = _carve(splits["train"], carve.carve, sub_dataset.name, split, config.seed)
    for split, examples in splits.items():
        limit = getattr(sub_dataset.max_rows, split)
        splits[split] = _sample(examples, limit, f"{sub_dataset.name}/{split}", config.seed)
    return splits


def fingerprint(examples: Iterable[Example]) -> str:
    """Return the sha256 of the texts of `examples`, in order."""
    digest = hashlib.sha256()
    for example in examples:
        row = [example.prompt, example.completion, example.answer, example.choices, example.messages]
        digest.update(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _read_named(config: SearchConfig, sub_dataset: SubDatasetConfig, split: str, name: str) -> list[Example]:
    rows, where = read_columns(config, sub_dataset, split, name)
    examples = [to_example(sub_dataset, row, f"{where} row {index}") for index, row in enumerate(rows)]
    if not examples:
        raise DataError(
            sub_dataset.name,
            where,
            got="no rows",
            expected="at least one row",
            fix="add rows to the file, name another split under splits, or remove the sub-dataset",
        )
    return examples


def read_columns(
    config: SearchConfig, sub_dataset: SubDatasetConfig, split: str, name: str
) -> tuple[Iterable[Mapping[str, Any]], str]:
    """Return the rows of a named split without change, and their location for messages."""
    if sub_dataset.synthetic is not None:
        from tasks.data.synthetic import synthetic_rows

        rows = synthetic_rows(sub_dataset.synthetic, split, config.seed)
        return rows, f"{split} (synthetic {sub_dataset.synthetic.skill})"
    if sub_dataset.hub is not None:
        return _load_hub(sub_dataset, name), f"{sub_dataset.hub} split {name}"
    assert sub_dataset.path is not None
    file = _split_file(sub_dataset, config.resolve(sub_dataset.path), split, name)
    return open_file(sub_dataset.name, file), str(file)


def _split_file(sub_dataset: SubDatasetConfig, path: Path, split: str, name: str) -> Path:
    """Return the file of a split: `path` itself, or the file of that name in the folder."""
    if path.is_file():
        if split == "train":
            return path
        path = path.parent
    if not path.is_dir():
        raise DataError(
            sub_dataset.name,
            f"path {path}",
            got="no such file or folder",
            expected="a data file or a folder of them",
            fix=f"fix mixture.sub_datasets.{sub_dataset.name}.path (paths are relative to the YAML file)",
        )
    candidates = [path / name, *(path / f"{name}{ending}" for ending in FORMATS)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    there = ", ".join(sorted(file.name for file in path.iterdir())) or "nothing"
    raise DataError(
        sub_dataset.name,
        f"split {split} in {path}",
        got=f"no file {name}.*; the folder contains {there}",
        expected=f"{name} with one of the endings {', '.join(FORMATS)}",
        fix=f"name the file in splits.{split}"
        + (f", or carve it from train with splits: {{{split}: {{carve: 200}}}}" if split != "train" else "")
        + ("; test: null where there is none" if split == "test" else ""),
    )


def _load_hub(sub_dataset: SubDatasetConfig, split: str) -> Iterable[Mapping[str, Any]]:
    import datasets

    datasets.disable_progress_bars()
    try:
        rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(
            sub_dataset.hub, sub_dataset.hub_config, split=split, revision=sub_dataset.revision
        )
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        raise DataError(
            sub_dataset.name,
            f"hub {sub_dataset.hub}, split {split}",
            got=" ".join(str(error).split())[:300],
            expected="a dataset on the hub with this configuration and split",
            fix="check hub, hub_config, revision and splits; without a network, download it and use path",
        ) from error
    return rows


def to_example(sub_dataset: SubDatasetConfig, row: Mapping[str, Any], where: str) -> Example:
    """Return the example of a row of columns.

    Args:
        where: the row, for messages.

    Raises:
        DataError: the row lacks the columns or texts that training needs.
    """
    if sub_dataset.template is not None:
        example = _from_template(sub_dataset, row, where)
    elif row.get("messages") is not None:
        example = _from_messages(sub_dataset.name, row["messages"], where)
    else:
        example = _from_columns(sub_dataset.name, row, where)
    try:
        turns = (text for turn in example.messages for text in turn)
        "".join((example.prompt, example.completion, example.answer, *example.choices, *turns)).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            sub_dataset.name,
            where,
            got=f"half of a surrogate pair: {str(error).split(':')[0]}",
            expected="text that UTF-8 can encode",
            fix="fix the row; a character was cut in two when it was written",
        ) from error
    return example


def _from_columns(name: str, row: Mapping[str, Any], where: str) -> Example:
    missing = [key for key in ("prompt", "completion") if not isinstance(row.get(key), str)]
    if missing:
        got = {key: type(value).__name__ for key, value in row.items()}
        raise DataError(
            name,
            where,
            got=f"the columns {got!r:.300}",
            expected=f"text in {' and '.join(missing)}",
            fix="rename the columns, or map them with template: {prompt: '…{column}…', completion: ' {column}'}",
        )
    completion, answer = row["completion"], row.get("answer")
    answer_text = str(answer) if answer is not None else completion.strip()
    return _checked(name, where, row["prompt"], completion, answer_text, row.get("choices"))


def _from_template(sub_dataset: SubDatasetConfig, row: Mapping[str, Any], where: str) -> Example:
    assert sub_dataset.template is not None
    try:
        filled = fill_template(sub_dataset.template, row)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError, OverflowError) as error:
        raise DataError(
            sub_dataset.name,
            where,
            got=f"{type(error).__name__}: {error}; columns with a value: {_with_values(row)}",
            expected="a template that names columns of the row",
            fix="fix the sub-dataset's template",
        ) from error
    return _checked(sub_dataset.name, where, filled.prompt, filled.completion, filled.answer, filled.choices)


def _with_values(row: Mapping[str, Any]) -> str:
    return ", ".join(column for column, value in row.items() if value is not None and value == value)


def _from_messages(name: str, messages: Any, where: str) -> Example:
    is_chat = isinstance(messages, list) and all(
        isinstance(m, dict) and m.get("role") in _ROLES and isinstance(m.get("content"), str) for m in messages
    )
    ends_in_answer = is_chat and messages and messages[-1]["role"] == "assistant"
    if not ends_in_answer or not messages[-1]["content"].strip():
        raise DataError(
            name,
            where,
            got=f"messages = {messages!r:.120}",
            expected=f"a list of {{role, content}} texts, each role one of {', '.join(_ROLES)}, "
            "that ends with the assistant's, which is not empty",
            fix="fix the row",
        )
    pairs = tuple((m["role"], m["content"]) for m in messages)
    prompt = "\n".join(f"{role}: {content}" for role, content in pairs[:-1])
    return Example(prompt, pairs[-1][1], pairs[-1][1].strip(), messages=pairs)


def _checked(name: str, where: str, prompt: str, completion: str, answer: str, choices: Any) -> Example:
    """Return the example after checking its texts; choices become full completions, of which the completion is one."""
    for text, what in ((completion, "completion, so every label is masked"), (answer, "answer")):
        if not text.strip():
            raise DataError(
                name,
                where,
                got=f"an empty {what}",
                expected="text to learn from",
                fix="remove the row, or fill its column",
            )
    if choices is None:
        return Example(prompt, completion, answer)
    texts = [str(choice) for choice in choices] if _are_choices(choices) else []
    lead, _, rest = completion.rpartition(answer)
    if completion not in texts and answer in texts and not rest.strip():
        texts = [f"{lead}{text}{rest}" for text in texts]
    if texts.count(completion) != 1 or len(texts) < 2:
        raise DataError(
            name,
            where,
            got=f"choices {choices!r:.120} with the answer {answer!r:.80}",
            expected="a list of two or more texts, the answer exactly once among them",
            fix="fix the row's choices, or set metric: exact_match and drop the column (or make it null)",
        )
    return Example(prompt, completion, answer, tuple(texts))


def _are_choices(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(choice, str | int | float) for choice in value)


def _carve(
    train: Sequence[Example], count: int, name: str, split: str, seed: int
) -> tuple[list[Example], list[Example]]:
    """Return (rest, carved). Rows of one prompt stay together, so that no prompt is in both."""
    prompts = list(dict.fromkeys(example.prompt for example in train))
    order = random_state(seed, "carve", name, split).permutation(len(prompts))
    rows_of: dict[str, list[int]] = {}
    for index, example in enumerate(train):
        rows_of.setdefault(example.prompt, []).append(index)
    carved: set[int] = set()
    for position in order:
        if len(carved) >= count:
            break
        carved.update(rows_of[prompts[position]])
    if len(carved) >= len(train):
        raise DataError(
            name,
            f"splits.{split}",
            got=f"{len(train)} train rows, {count} to carve",
            expected="rows left to train on",
            fix=f"carve fewer rows, or name a file in splits.{split}",
        )
    rest = [example for index, example in enumerate(train) if index not in carved]
    return rest, [train[index] for index in sorted(carved)]


def _sample(examples: list[Example], limit: int | None, key: str, seed: int) -> list[Example]:
    if limit is None or len(examples) <= limit:
        return examples
    chosen = random_state(seed, "sample", key).permutation(len(examples))[:limit]
    return [examples[index] for index in sorted(chosen)]
