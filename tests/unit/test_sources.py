from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.config.loading import parse_config
from tasks.config.schema import SearchConfig
from tasks.config.sub_datasets import TemplateConfig
from tasks.data.chats import Message
from tasks.data.examples import Example, fingerprint
from tasks.data.sources import read_splits
from tasks.data.templates import fill_template
from tasks.data.values import json_text, parse_json
from tasks.errors import DataError

ROWS = [{"prompt": f"question {i}", "completion": f" answer {i}"} for i in range(3)]
READ = [Example(f"question {i}", f" answer {i}", f"answer {i}") for i in range(3)]
Row = Mapping[str, Any]


def _read(directory: Path, path: str = ".", seed: int = 0, **settings: Any) -> dict[str, list[Example]]:
    raw = {
        "name": "test",
        "seed": seed,
        "model": {"source": "none"},
        "mixture": {"sub_datasets": [{"name": "sub", "path": path, **settings}]},
        "search": {"max_epochs": 1},
        "config_dir": str(directory),
    }
    config: SearchConfig = parse_config(raw, "test")
    return read_splits(config, config.mixture.sub_datasets[0])


def _read_one(directory: Path, row: Row, **settings: Any) -> Example:
    """Return what becomes of one train row."""
    _jsonl(directory / "train.jsonl", [row])
    _jsonl(directory / "validation.jsonl", [row])
    return _read(directory, splits={"test": None}, **settings)["train"][0]


def _refusal(read: Callable[..., Any], *args: Any, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(*args, **settings)
    assert caught.value.sub_dataset == "sub"
    return str(caught.value)


def _jsonl(path: Path, rows: Sequence[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _json(path: Path, rows: Sequence[Row]) -> None:
    path.write_text(json.dumps(rows))


def _csv(path: Path, rows: Sequence[Row]) -> None:
    path.write_text("\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]))


def _parquet(path: Path, rows: Sequence[Row]) -> None:
    from pyarrow import Table
    from pyarrow.parquet import write_table

    write_table(Table.from_pylist(list(rows)), path)


@pytest.mark.parametrize(
    ("ending", "write"), [("jsonl", _jsonl), ("json", _json), ("csv", _csv), ("parquet", _parquet)]
)
def test_a_folder_of_split_files_is_read_in_each_format(
    tmp_path: Path, ending: str, write: Callable[[Path, Sequence[Row]], None]
) -> None:
    write(tmp_path / f"train.{ending}", ROWS)
    write(tmp_path / f"validation.{ending}", ROWS[:1])
    write(tmp_path / f"test.{ending}", ROWS[1:2])
    assert _read(tmp_path) == {"train": READ, "validation": READ[:1], "test": READ[1:2]}


def test_one_file_is_train_and_the_others_lie_beside_it(tmp_path: Path) -> None:
    _jsonl(tmp_path / "mine.jsonl", ROWS)
    _jsonl(tmp_path / "dev.jsonl", ROWS[:1])
    splits = _read(tmp_path, "mine.jsonl", splits={"validation": "dev.jsonl", "test": None})
    assert splits == {"train": READ, "validation": READ[:1]}


TEMPLATE = {"prompt": "Q: {q}\nA:", "completion": " {a}"}


@pytest.mark.parametrize(
    ("row", "template", "example"),
    [
        ({"q": "2+2?", "a": 4}, TEMPLATE, Example("Q: 2+2?\nA:", " 4", "4")),
        ({"q": "?", "a": "x #### 4"}, {**TEMPLATE, "answer": "{q}"}, Example("Q: ?\nA:", " x #### 4", "?")),
        (
            {"q": "?", "a": "no", "options": ["yes", "no"]},
            {**TEMPLATE, "choices": "options"},
            Example("Q: ?\nA:", " no", "no", (" yes", " no")),
        ),
        (
            {"q": "?", "a": "two", "b": "one"},
            {**TEMPLATE, "choices": ["{b}", "{a}"]},
            Example("Q: ?\nA:", " two", "two", (" one", " two")),
        ),
    ],
)
def test_a_template_maps_columns(tmp_path: Path, row: Row, template: Row, example: Example) -> None:
    assert _read_one(tmp_path, row, template=template) == example


@pytest.mark.parametrize(
    ("prompt", "cause"),
    [
        ("{question}", "KeyError: 'question'"),
        ("{q[x]}", "TypeError"),
        ("{q:d}", "ValueError"),
        ("{q.x}", "AttributeError"),
    ],
)
def test_a_template_that_does_not_fit_the_row_names_its_columns(tmp_path: Path, prompt: str, cause: str) -> None:
    template = {"prompt": prompt, "completion": " {a}"}
    text = _refusal(_read_one, tmp_path, {"q": "?", "a": "4"}, template=template)
    assert cause in text
    assert "columns with a value: q, a" in text


def test_a_template_makes_no_text_of_null(tmp_path: Path) -> None:
    text = _refusal(_read_one, tmp_path, {"q": "?", "a": None}, template=TEMPLATE)
    assert "KeyError: 'a'; columns with a value: q" in text


def _lettered(texts: Any, right: str, **settings: Any) -> Row:
    options = {"texts": texts, "right": right, **settings}
    return {"prompt": "{q}\n{options}", "completion": " {letter}", "options": options}


@pytest.mark.parametrize(
    ("row", "template", "example"),
    [
        (
            {"q": "?", "o": ["yes", "no"], "a": "B"},
            _lettered("o", "{a}"),
            Example("?\nA. yes\nB. no", " B", "B", (" A", " B")),
        ),
        (  # labels of their own, in a column inside a column; the same text twice
            {"q": "?", "o": {"text": ["x", "x", "y"], "label": [1, 2, 3]}, "a": 2},
            _lettered("o[text]", "{a}", labels="o[label]"),
            Example("?\nA. x\nB. x\nC. y", " B", "B", (" A", " B", " C")),
        ),
        (
            {"q": "?", "first": "x", "second": "y", "a": "1"},
            _lettered(["{first}", "{second}!"], "{a}", labels=["0", "1"]),
            Example("?\nA. x\nB. y!", " B", "B", (" A", " B")),
        ),
        (  # the option's text in place of its letter; truth values
            {"q": "?", "a": False},
            {
                "prompt": "{q}",
                "completion": " {option}",
                "options": {"texts": ["yes", "no"], "labels": ["True", "False"], "right": "{a}"},
            },
            Example("?", " no", "no", (" yes", " no")),
        ),
    ],
)
def test_a_template_letters_options(tmp_path: Path, row: Row, template: Row, example: Example) -> None:
    assert _read_one(tmp_path, row, template=template) == example


def test_shuffled_options_are_the_same_for_every_seed(tmp_path: Path) -> None:
    rows = [{"q": "?", "right": f"right {i}", "wrong": f"wrong {i}"} for i in range(200)]
    for split in ("train", "validation"):
        _jsonl(tmp_path / f"{split}.jsonl", rows)
    template = _lettered(["{right}", "{wrong}"], "A", shuffle=True)
    first, second = (_read(tmp_path, seed=seed, splits={"test": None}, template=template)["train"] for seed in (0, 1))
    assert first == second
    assert 70 < sum(example.completion == " A" for example in first) < 130
    for example, row in zip(first, rows, strict=True):
        assert f"{example.completion.strip()}. {row['right']}" in example.prompt
        assert row["wrong"] in example.prompt


def test_messages_are_a_chat_whose_last_answer_is_the_completion(tmp_path: Path) -> None:
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Yo "), ("user", "?"), ("assistant", " !")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    assert _read_one(tmp_path, row) == Example(
        prompt="system: Be brief.\nuser: Hi\nassistant: Yo \nuser: ?",
        completion=" !",
        answer="!",
        messages=tuple(Message(*turn) for turn in turns),
    )


def test_choices_and_an_answer_beside_messages_are_used(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "2+2=4?"}, {"role": "assistant", "content": "It is yes"}]
    read = _read_one(tmp_path, {"messages": turns, "choices": ["yes", "no"], "answer": "yes"})
    assert (read.choices, read.answer) == (("It is yes", "It is no"), "yes")


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "assistant", "content": "Yo"}, {"role": "user", "content": "Hi"}],
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": " "}],
        [{"role": "user", "text": "Hi"}],
    ],
)
def test_a_chat_that_ends_with_no_answer_is_refused(tmp_path: Path, messages: list[Row]) -> None:
    text = _refusal(_read_one, tmp_path, {"messages": messages})
    assert "train.jsonl row 0" in text
    assert "that ends with the assistant's, which is not empty" in text


@pytest.mark.parametrize(
    ("completion", "answer", "choices", "full"),
    [
        (" C", "C", ["A", "B", "C"], (" A", " B", " C")),
        (" C", None, ["A", "B", "C"], (" A", " B", " C")),  # the answer is the completion's text
        (" C", "C", [" A", " B", " C"], (" A", " B", " C")),
        ("Answer: A\n", "A", ["A", "B"], ("Answer: A\n", "Answer: B\n")),  # the last A is the answer
        (" 2", "2", [1, 2], (" 1", " 2")),
    ],
)
def test_choices_become_full_completions(
    tmp_path: Path, completion: str, answer: str | None, choices: list[Any], full: tuple[str, ...]
) -> None:
    row = {"prompt": "p", "completion": completion, "answer": answer, "choices": choices}
    example = _read_one(tmp_path, row)
    assert example.choices == full
    assert example.completion == completion


@pytest.mark.parametrize("choices", [["A", "B"], ["C", "C"]])
def test_choices_that_hold_the_answer_not_once_are_refused(tmp_path: Path, choices: list[str]) -> None:
    row = {"prompt": "p", "completion": " C", "answer": "C", "choices": choices}
    text = _refusal(_read_one, tmp_path, row)
    assert f"choices {choices!r} with the answer 'C'" in text


def test_an_empty_completion_is_refused_by_row(tmp_path: Path) -> None:
    _jsonl(tmp_path / "train.jsonl", [*ROWS, {"prompt": "p", "completion": " \n"}])
    text = _refusal(_read, tmp_path)
    assert "train.jsonl row 3" in text
    assert "every label is masked" in text


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_file_without_rows_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "train.jsonl").write_text(content)
    assert "train.jsonl" in _refusal(_read, tmp_path)


def test_a_missing_column_is_refused_with_those_that_are_there(tmp_path: Path) -> None:
    _jsonl(tmp_path / "train.jsonl", [{"prompt": "p", "output": "o"}])
    text = _refusal(_read, tmp_path)
    assert "the columns {'prompt': 'str', 'output': 'str'}" in text
    assert "expected: text in completion" in text


def test_a_missing_file_lists_what_is_there(tmp_path: Path) -> None:
    _jsonl(tmp_path / "train.jsonl", ROWS)
    _jsonl(tmp_path / "valid.jsonl", ROWS)
    text = _refusal(_read, tmp_path)
    assert "no file validation.*; the folder contains train.jsonl, valid.jsonl" in text
    assert "splits: {validation: {carve: 200}}" in text


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    assert f"path {tmp_path / 'nowhere'}" in _refusal(_read, tmp_path, "nowhere")


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("train.jsonl", b'{"prompt": "p", "completion": "c"}\nnot json\n', "line 2: not JSON: Expecting value"),
        ("train.json", b'[{"prompt": "p", ', "not JSON: Expecting property name"),
        ("train.jsonl", '{"prompt": "é", "completion": "c"}\n'.encode("latin1"), "can't decode byte"),
        ("train.parquet", b"PAR0", "Parquet"),
    ],
)
def test_a_broken_file_is_refused_with_its_name(tmp_path: Path, name: str, content: bytes, cause: str) -> None:
    (tmp_path / name).write_bytes(content)
    text = _refusal(_read, tmp_path)
    assert str(tmp_path / name) in text
    assert cause in text


def test_another_ending_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("x")
    splits = {"train": "train.txt"}
    assert "expected: .jsonl, .json, .csv, .parquet" in _refusal(_read, tmp_path, splits=splits)


def test_a_fingerprint_changes_with_any_text_and_with_the_order() -> None:
    changed = [Example("question 0", " answer 0", "other"), *READ[1:]]
    assert len({fingerprint(READ), fingerprint(READ[::-1]), fingerprint(READ[:2]), fingerprint(changed)}) == 4
    assert fingerprint(READ) == fingerprint(list(READ))


def test_a_row_as_json_keeps_the_spelling_of_its_numbers() -> None:
    row = {"b": [1, "é", None, True, 0.5], "a": {"y": 1, "x": "\n"}}
    assert json_text(row) == json.dumps(row, ensure_ascii=False, sort_keys=True)
    spelled = '{"a": 0.30, "b": [1e3, -0, 123456789012345678901.5]}'
    assert json_text(parse_json(spelled)) == spelled


@given(st.from_regex(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?", fullmatch=True))
def test_a_number_is_the_text_that_stands_in_the_file(number: str) -> None:
    (value,) = parse_json(f"[{number}]")
    template = TemplateConfig(prompt="{q}", completion=" {q!s}")
    filled = fill_template(template, {"q": value})
    assert (filled.prompt, filled.completion, json_text([value])) == (number, f" {number}", f"[{number}]")
