"""Forms of rows that users have are read without a template of one's own, by `init` as by `plan` and `search`."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks.commands.init import write_draft
from tasks.config.loading import load_config
from tasks.data.columns import is_informative
from tasks.data.examples import Example
from tasks.data.sources import read_splits
from tasks.errors import ConfigError, DataError, InitError
from tests.unit.bad_input import Place
from tests.unit.hub_rows import HUB_ROWS

Rows = Sequence[Mapping[str, Any]]
OPTIONS = ["1", "2", "3", "4"]
USER, ASSISTANT = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}
LISTED = "q {0}?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:"
LETTERS, NUMBERS = (" A", " B", " C", " D"), (" 1", " 2", " 3", " 4")


def _asked(**columns: Any) -> Rows:
    """Return four rows of one question each; a tuple of answers is dealt out."""
    return [
        {
            "question": f"q {i}?",
            **{key: value[i] if isinstance(value, tuple) else value for key, value in columns.items()},
        }
        for i in range(4)
    ]


# name: (rows, prompt, completion and choices of the second row)
CASES: dict[str, tuple[Rows, str, str, tuple[str, ...]]] = {
    "Alpaca with an input": (
        [{"instruction": f"Add {i}.", "input": f"x {i}", "output": f"y {i}", "text": f"all {i}"} for i in range(3)],
        "Add 1.\nx 1\nAnswer:",
        " y 1",
        (),
    ),
    "Alpaca, some inputs empty": (
        [{"instruction": f"Add {i}.", "input": ("x", "", None)[i], "output": f"y {i}"} for i in range(3)],
        "Add 1.\nAnswer:",
        " y 1",
        (),
    ),
    "Dolly": (
        [
            {"instruction": f"Add {i}.", "context": "", "response": f"y {i}", "category": ("a", "b", "b")[i]}
            for i in range(3)
        ],
        "Add 1.\nAnswer:",
        " y 1",
        (),
    ),
    "ShareGPT": (
        [
            {"id": str(i), "conversations": [{"from": "human", "value": f"hi {i}"}, {"from": "gpt", "value": "yo"}]}
            for i in range(3)
        ],
        "user: hi 1",
        "yo",
        (),
    ),
    "ShareGPT with a system prompt beside it": (
        [
            {
                "system": "Be kind.",
                "conversations": [{"from": "human", "value": f"hi {i}"}, {"from": "gpt", "value": "yo"}],
            }
            for i in range(3)
        ],
        "system: Be kind.\nuser: hi 1",
        "yo",
        (),
    ),
    "conversations with role and content": (
        [{"conversations": [{"role": "user", "content": f"hi {i}"}, ASSISTANT]} for i in range(3)],
        "user: hi 1",
        "yo",
        (),
    ),
    "TRL, prompt and completion as messages": (
        [{"prompt": [{"role": "user", "content": f"hi {i}"}], "completion": [ASSISTANT]} for i in range(3)],
        "user: hi 1",
        "yo",
        (),
    ),
    "TRL, text alone": (
        [{"id": i, "text": f"Once upon {i} times", "source": "book"} for i in range(3)],
        "Once",
        " upon 1 times",
        (),
    ),
    "preferences as texts": (
        [{"prompt": f"hi {i}", "chosen": "yo", "rejected": "no"} for i in range(3)],
        "hi 1",
        " yo",
        (),
    ),
    "preferences as messages": (
        [
            {"prompt": [{"role": "user", "content": f"hi {i}"}], "chosen": [ASSISTANT], "rejected": [USER]}
            for i in range(3)
        ],
        "user: hi 1",
        "yo",
        (),
    ),
    "preferences that hold the prompt": (
        [
            {
                "prompt": f"hi {i}",
                "chosen": [{"role": "user", "content": f"hi {i}"}, ASSISTANT],
                "rejected": [{"role": "user", "content": f"hi {i}"}, {"role": "assistant", "content": "no"}],
            }
            for i in range(3)
        ],
        "user: hi 1",
        "yo",
        (),
    ),
    "preferences that begin with their prompt": (
        [
            {"chosen": f"\n\nHuman: hi {i}\n\nAssistant: yo", "rejected": f"\n\nHuman: hi {i}\n\nAssistant: you"}
            for i in range(3)
        ],
        "\n\nHuman: hi 1\n\nAssistant:",
        " yo",
        (),
    ),
    "SQuAD, the first of the answers": (
        [{"context": f"c {i}", "question": f"q {i}?", "answers": {"text": [f"y {i}", "z"]}} for i in range(3)],
        "q 1?\nc 1\nAnswer:",
        " y 1",
        (),
    ),
    "answers in a list": (_asked(answer=(["x"], ["y", "z"], ["x"], ["x"])), "q 1?\nAnswer:", " y", ()),
    "answers with aliases": (_asked(answer=({"value": "x"},) * 4), "q 1?\nAnswer:", " x", ()),
    "options with a list of marks (TruthfulQA)": (
        _asked(mc1_targets={"choices": ["3", "1", "2"], "labels": [1, 0, 0]}),
        "q 1?\nA. 2\nB. 3\nC. 1\nAnswer:",
        " B",
        (" A", " B", " C"),
    ),
    "wrong answers in columns with spaces": (
        [
            {"Question": f"q {i}?", "Correct Answer": "1", "Incorrect Answer 1": "2", "Incorrect Answer 2": "3"}
            for i in range(3)
        ],
        "q 1?\nA. 2\nB. 3\nC. 1\nAnswer:",
        " C",
        (" A", " B", " C"),
    ),
    "options as JSON in a text": (
        _asked(options=json.dumps(OPTIONS), answer=("A", "B", "C", "D")),
        LISTED,
        " B",
        LETTERS,
    ),
    "choices and their labels as JSON in a text": (
        _asked(choices=json.dumps({"text": OPTIONS, "label": list("ABCD")}), answerKey=("A", "B", "C", "D")),
        LISTED,
        " B",
        LETTERS,
    ),
    "messages as JSON in a text": (
        [{"messages": json.dumps([{"role": "user", "content": f"hi {i}"}, ASSISTANT])} for i in range(3)],
        "user: hi 1",
        "yo",
        (),
    ),
    "ShareGPT as JSON in a text, with role": (
        [
            {"conversations": json.dumps([{"role": "human", "value": f"hi {i}"}, {"role": "gpt", "value": "yo"}])}
            for i in range(3)
        ],
        "user: hi 1",
        "yo",
        (),
    ),
    "a question, some system prompts empty (OpenOrca)": (
        [{"system_prompt": ("Be kind.", "", "")[i], "question": f"q {i}?", "response": "yo"} for i in range(3)],
        "q 1?\nAnswer:",
        " yo",
        (),
    ),
    "Alpaca with a system prompt": (
        [{"system": "Be kind.", "instruction": f"Add {i}.", "input": "", "output": f"y {i}"} for i in range(3)],
        "Be kind.\nAdd 1.\nAnswer:",
        " y 1",
        (),
    ),
    "two texts and a label": (
        [{"sentence1": f"s {i}", "sentence2": f"t {i}", "label": i % 2, "idx": i} for i in range(4)],
        "s 1\nt 1\nAnswer:",
        " 1",
        (),
    ),
    "a question and a truth value": (
        [{"question": f"q {i}", "passage": f"p {i}", "answer": i % 2 == 1} for i in range(4)],
        "q 1\np 1\nAnswer:",
        " true",
        (),
    ),
    "choices and an index": (_asked(choices=OPTIONS, answer=1), LISTED, " 2", NUMBERS),
    "choices and an index as text": (
        _asked(choices=["x", "y"], answer=("0", "1", "1", "0")),
        "q {0}?\nA. x\nB. y\nAnswer:",
        " y",
        (" x", " y"),
    ),
    "choices and an index from 1": (_asked(choices=OPTIONS, label=(4, 2, 1, 3)), LISTED, " 2", NUMBERS),
    "choices and a letter": (_asked(choices=OPTIONS, answer=("A", "B", "C", "D")), LISTED, " B", LETTERS),
    "choices and a small letter": (_asked(choices=OPTIONS, answer=("a", "b", "c", "d")), LISTED, " B", LETTERS),
    "choices and a letter in parentheses": (
        _asked(options=OPTIONS, answer=("(A)", "(B)", "(B)", "(D)")),
        LISTED,
        " B",
        LETTERS,
    ),
    "choices and a text": (_asked(choices=OPTIONS, answer=("1", "2", "3", "4")), "q {0}?\nAnswer:", " 2", NUMBERS),
    "choices that are numbers, and one of them": (
        _asked(choices=[10, 20, 30], answer=(30, 20, 10, 10)),
        "q {0}?\nAnswer:",
        " 20",
        (" 10", " 20", " 30"),
    ),
    "columns A to D and a letter": (
        _asked(A="1", B="2", C="3", D="4", answer=("A", "B", "C", "D")),
        LISTED,
        " B",
        LETTERS,
    ),
    "columns A to D, one option always the same, and an index": (
        _asked(A="none", B=("2", "3", "4", "5"), answer=(0, 1, 1, 0)),
        "q {0}?\nA. none\nB. 3\nAnswer:",
        " 3",
        (" none", " 3"),
    ),
    "columns option_a to option_d and a column's name": (
        _asked(option_a="1", option_b="2", option_c="3", option_d="4", answer=("option_a", "option_b") * 2),
        LISTED,
        " B",
        LETTERS,
    ),
    "columns option1 and option2 and a number from 1": (
        _asked(option1="1", option2="2", answer=("1", "2", "2", "1")),
        "q {0}?\nAnswer:",
        " 2",
        (" 1", " 2"),
    ),
    "ARC": (
        _asked(
            id=("a", "b", "c", "d"),
            choices={"text": OPTIONS, "label": ["A", "B", "C", "D"]},
            answerKey=("D", "B", "C", "A"),
        ),
        LISTED,
        " B",
        LETTERS,
    ),
    "ARC with labels 1 to 4": (
        _asked(choices={"text": OPTIONS, "label": ["1", "2", "3", "4"]}, answerKey=("4", "2", "3", "1")),
        LISTED,
        " B",
        LETTERS,
    ),
    "options by letter, and a letter": (
        _asked(options={"A": "1", "B": "2", "C": "3", "D": "4"}, answer_idx=("A", "B", "C", "D")),
        LISTED,
        " B",
        LETTERS,
    ),
    "options by letter, a letter and the answer's text (MedQA)": (
        _asked(options={"A": "1", "B": "2"}, answer=("1", "2", "2", "1"), answer_idx=("A", "B", "B", "A")),
        "q {0}?\nAnswer:",
        " 2",
        (" 1", " 2"),
    ),
    "columns that are constant or an id": (
        [
            {"id": f"{i}-a", "context": "none", "question": f"q {i}?", "source": "web", "row_id": i, "answer": f"a {i}"}
            for i in range(4)
        ],
        "q 1?\nAnswer:",
        " a 1",
        (),
    ),
}
NOT_NATIVE = {
    "columns that are constant or an id",
    "two texts and a label",
    "a question and a truth value",
    "SQuAD, the first of the answers",
    "answers in a list",
    "answers with aliases",
}  # a guess, which init writes and a person checks


def _jsonl(rows: Rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _drafted(tmp_path: Path) -> list[Example]:
    draft = write_draft(str(tmp_path / "data"), str(tmp_path / "x.yaml"), "none")
    config = load_config(draft.path)
    return read_splits(config, config.mixture.sub_datasets[0])["train"]


@pytest.mark.parametrize("name", CASES)
def test_a_form_is_read_as_it_is(tmp_path: Path, name: str) -> None:
    rows, prompt, completion, choices = CASES[name]
    (tmp_path / "data").mkdir()
    for split in ("train", "validation", "test"):
        (tmp_path / "data" / f"{split}.jsonl").write_text(_jsonl(rows))
    example = _drafted(tmp_path)[1]
    assert (example.prompt, example.completion, example.choices) == (prompt.format(1), completion, choices)
    if name not in NOT_NATIVE:
        config = Place(tmp_path, tmp_path).config({"name": "sub", "path": "data"})
        assert read_splits(config, config.mixture.sub_datasets[0])["train"][1] == example


@pytest.mark.parametrize("name", [name for name in HUB_ROWS if name != "boolq"])
def test_init_finds_the_right_option_of_hub_rows(tmp_path: Path, name: str) -> None:
    """The wording is another than that of data/paper15.yaml; right options and their number are the same."""
    rows, expected = HUB_ROWS[name]
    (tmp_path / "data").mkdir()
    for split in ("train", "validation", "test"):
        (tmp_path / "data" / f"{split}.jsonl").write_text(_jsonl(rows))
    drafted = _drafted(tmp_path)
    assert [len(example.choices) for example in drafted] == [len(choices) for _, _, choices in expected]
    for example, (prompt, completion, choices) in zip(drafted, expected, strict=True):
        options = [line[3:] for line in prompt.splitlines() if line[1:3] == ". "]
        index = choices.index(completion) if choices else 0
        own = example.choices.index(example.completion) if example.choices else 0
        if name == "sciq":  # drawn by the texts
            assert f"{example.completion.strip()}. {options[index]}" in example.prompt
        else:
            assert own == index
        assert all(option in example.prompt + "".join(example.choices) for option in options)


@pytest.mark.parametrize(
    ("row", "nearest"),
    [
        ({"question": "q", "reply": "r"}, "{prompt: '{question}\\nAnswer:', completion: ' {reply}'}"),
        ({"instruction": "i", "result": "r"}, "the nearest form is Alpaca (instruction, input, output)"),
        ({"conversations": "Human: hi"}, "the nearest form is ShareGPT's conversations: [{from, value}]"),
        ({"question": "q", "choices": "a b", "answer": "a"}, "options: {texts: choices, right: '{answer}'}"),
        ({"text": "t", "label": "good"}, "{prompt: '{text}\\nAnswer:', completion: ' {label}'}"),
        ({"sentence1": "s", "sentence2": "t", "label": 1}, "completion: ' {label}'"),
        ({"chosen": "a", "rejected": 5}, "the nearest form is preferences"),
        ({"prompt": "p", "completion": " c", "label": False}, "label: false, a completion that is not wanted"),
    ],
)
def test_another_form_is_refused_with_its_nearest(place: Place, row: Mapping[str, Any], nearest: str) -> None:
    with pytest.raises(DataError) as caught:
        place.read({}, {"train.jsonl": [row, {**row, "id": 7}]})
    assert nearest in str(caught.value)


@pytest.mark.parametrize(
    ("name", "values", "tells"),
    [
        ("question", ["a", "b", "c"], True),
        ("source", ["web", "web", "web"], False),
        ("doc_id", ["a", "c", "b"], False),
        ("number", [3, 4, 5], False),
        ("number", [3, 5, 4], True),
        ("key", ["0f8fad5b-d9cb-469f-a165-70867728950e", "7c9e6679-7425-40de-944b-e07fc1f90ae7"], False),
    ],
)
def test_a_column_that_is_constant_or_an_id_tells_nothing(name: str, values: list[Any], tells: bool) -> None:
    assert is_informative(name, [{name: value} for value in values]) is tells


@pytest.mark.parametrize(
    "row",
    [
        {"title": "t", "context": "c", "question": "q", "answers": {"spans": ["x"]}},
        {"question": "q", "choices": "['a', 'b']", "answer": "a"},
        {"instruction": "i", "history": [["a", "b"]], "output": "o"},
    ],
)
def test_init_leaves_out_nothing_that_rows_ask(tmp_path: Path, row: Mapping[str, Any]) -> None:
    (tmp_path / "a.jsonl").write_text(_jsonl([{**row, "number": i} for i in (5, 3, 9)]))
    with pytest.raises(InitError, match="the columns"):
        write_draft(str(tmp_path), str(tmp_path / "x.yaml"), "none")


def _parquet(path: Path, rows: Rows) -> None:
    from pyarrow import Table
    from pyarrow.parquet import write_table

    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(Table.from_pylist([dict(row) for row in rows]), path)


@pytest.mark.parametrize(
    "place_of",
    [
        "{split}-{shard:05}-of-00002.parquet",
        "data/{split}-{shard:05}-of-00002.parquet",
        "{split}-{shard:05}-of-00002-0123456789abcdef.parquet",
        "{split}/{shard:04}.parquet",
        "mine/{split}/{shard:04}.parquet",
        "mine/data/{split}-{shard:05}-of-00002.parquet",
        "mine_{split}-{shard:05}-of-00002.parquet",
        "{split}_{shard}.parquet",
    ],
)
def test_shards_of_hub_data_are_one_sub_dataset(tmp_path: Path, place_of: str) -> None:
    for number, split in enumerate(("train", "validation", "test")):
        for shard in range(2):
            rows = [{"question": f"q {number} {shard} {i}", "answer": "a"} for i in range(3)]
            _parquet(tmp_path / "mine" / place_of.format(split=split, shard=shard), rows)
    (tmp_path / "mine" / "dataset_infos.json").write_text("{}")
    config = load_config(write_draft(str(tmp_path / "mine"), str(tmp_path / "x.yaml"), "none").path)
    assert [part.name for part in config.mixture.sub_datasets] == ["mine"]
    splits = read_splits(config, config.mixture.sub_datasets[0])
    assert {split: [row.prompt[2:7] for row in rows] for split, rows in splits.items()} == {
        split: [f"{number} {shard} {i}" for shard in range(2) for i in range(3)]
        for number, split in enumerate(("train", "validation", "test"))
    }


def test_files_with_numbers_that_are_no_shards_stay_apart(tmp_path: Path) -> None:
    for year in (2023, 2024):
        (tmp_path / f"sales_{year}.tsv").write_text(f"question\tanswer\nq {year}\ta\n")
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(b'{"question": "q", "answer": "a"}\n'))
    config = load_config(write_draft(str(tmp_path), str(tmp_path / "x.yaml"), "none").path)
    assert [part.name for part in config.mixture.sub_datasets] == ["packed", "sales_2023", "sales_2024"]


@pytest.mark.parametrize(
    "files",
    [("train.json", "train.jsonl"), ("a.json", "a.jsonl"), ("a.jsonl", "a_train.jsonl"), ("a_val.csv", "a_dev.csv")],
)
def test_init_refuses_two_files_of_one_split(tmp_path: Path, files: tuple[str, str]) -> None:
    for file in files:
        (tmp_path / file).write_text('{"prompt": "p", "completion": " c"}\n')
    with pytest.raises(InitError, match=r"both of which could be the (train|validation) rows"):
        write_draft(str(tmp_path), str(tmp_path / "x.yaml"), "none")


@pytest.mark.parametrize("name", ["validation.jsonl.bz2", "a_test.arrow", "dev.txt"])
def test_init_refuses_a_split_that_it_cannot_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "train.jsonl").write_text(_jsonl(CASES["ShareGPT"][0] * 4))
    (tmp_path / "train.py").write_text("")
    (tmp_path / name).write_text("x")
    with pytest.raises(InitError, match=f"{name}(.|\n)*the ending (.|\\n)*jsonl.zst"):
        write_draft(str(tmp_path), str(tmp_path / "c.yaml"), "m")


def test_init_refuses_transcripts_of_a_row_a_turn(tmp_path: Path) -> None:
    turns = [{"chat": 1, "text": f"t {i}", "role": ("prompter", "assistant")[i % 2]} for i in range(4)]
    (tmp_path / "turns.jsonl").write_text("\n".join(map(json.dumps, turns)))
    with pytest.raises(InitError, match=r"one row a turn(.|\n)*messages: \[\{role, content\}\]"):
        write_draft(str(tmp_path), str(tmp_path / "c.yaml"), "m")


def test_a_part_of_a_text_is_refused(place: Place) -> None:
    template = {"prompt": "{q}", "completion": " {a[0]}"}
    rows = [{"q": "x", "a": ["y"]}, {"q": "z", "a": "yes"}]
    with pytest.raises(DataError, match="a text, which has no parts: 'yes'"):
        place.read({}, {"train.jsonl": rows}, template=template)


def test_texts_without_a_prompt_are_compared_by_loss(place: Place) -> None:
    texts = {
        f"{split}.jsonl": [{"text": f"Once upon {split} {i} times"} for i in range(3)]
        for split in ("train", "validation", "test")
    }
    assert place.read({"evaluation": {"selection": "loss"}}, texts).metric == "loss"
    with pytest.raises(ConfigError, match="texts without a prompt have no answer"):
        place.read({}, texts)


def test_carving_texts_goes_by_whole_texts(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(_jsonl([{"text": f"The text {i % 10}"} for i in range(20)]))
    splits = {"validation": {"carve": 4}, "test": None}
    config = Place(tmp_path, tmp_path).config({"name": "a", "path": "a.jsonl", "splits": splits})
    rows = read_splits(config, config.mixture.sub_datasets[0])
    assert {split: len(own) for split, own in rows.items()} == {"train": 16, "validation": 4}
    assert not {row.completion for row in rows["train"]} & {row.completion for row in rows["validation"]}
