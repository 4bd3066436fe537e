"""Bad data files and splits, each with what it must be told by; unusual files that have to work."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Mapping
from typing import Any

from tasks.data.sources import read_splits
from tasks.errors import ConfigError, DataError, MsftError, SplitOverlapError
from tests.unit.bad_input import Case, Content, Place, rows

TEMPLATE = {"prompt": "{q}", "completion": " {a}"}
GOOD_ROW = {"prompt": "p", "completion": " c"}
LOSS = {"evaluation": {"selection": "loss"}}


def bytes_of(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode()


def bad_file(name: str, content: Content, *parts: str, **sub: Any) -> Case:
    """One split's file, beside good ones."""
    return Case(lambda place: place.read({}, {name: content}, **sub), DataError, ("sub-dataset 'sub'", *parts))


def _validation(row: Mapping[str, Any], error: type[MsftError], *parts: str, **sub: Any) -> Case:
    files = {"validation.jsonl": [{"prompt": "v", "completion": " v"}, row]}
    return Case(lambda place: place.read({}, files, **sub), error, parts)


def bad_settings(error: type[MsftError], *parts: str, sections: Mapping[str, Any] | None = None, **sub: Any) -> Case:
    """Good rows with settings that they cannot follow."""
    return Case(lambda place: place.read(sections or {}, {}, **sub), error, parts)


FILES = {
    "file: no such folder": bad_settings(DataError, "no such file or folder", "sub_datasets.sub.path", path="nowhere"),
    "file: a split missing": bad_file(
        "train.jsonl", None, "no file train.*; the folder contains test.jsonl, validation.jsonl"
    ),
    "file: a test split missing": bad_file(
        "test.jsonl", None, "split test", "carve it from train", "test: null where there is none"
    ),
    "file: empty": bad_file("train.jsonl", b"", "train.jsonl", "no rows", "at least one row"),
    "file: only blank lines": bad_file("train.jsonl", b"\n \n\n", "train.jsonl", "no rows"),
    "file: an empty list": bad_file("train.json", b"[]", "train.json", "no rows"),
    "file: only a CSV header": bad_file("train.csv", b"prompt,completion\n", "train.csv", "no rows"),
    "file: another ending": bad_file(
        "train.txt", b"x", "the ending .txt", ".jsonl, .json, .csv, .parquet", splits={"train": "train.txt"}
    ),
    "file: compressed and cut off": bad_file(
        "train.jsonl.gz", gzip.compress(bytes_of(GOOD_ROW))[:-9], "train.jsonl.gz", "fix the file"
    ),
    "file: an ending of compression alone": bad_file(
        "train.txt.gz", gzip.compress(b"x"), "the ending .gz", ".jsonl.gz, .jsonl.zst", splits={"train": "train.txt.gz"}
    ),
    "file: two of one name": Case(
        lambda place: place.read({}, {"train.json": rows(3), "train.jsonl": rows(9)}),
        DataError,
        ("train.json, train.jsonl, each of which could be train", "name one with its ending in splits.train"),
    ),
    "file: shards beside a whole file": Case(
        lambda place: place.read({}, {"train-00000-of-00001.jsonl": rows(3), "train.jsonl": rows(9)}),
        DataError,
        ("train.jsonl, train-00000-of-00001.jsonl, each of which could be train",),
    ),
    "file: a shard missing": Case(
        lambda place: place.read({}, {"train-00000-of-00002.jsonl": rows(3), "train.jsonl": None}),
        DataError,
        ("got:      train-00000-of-00002.jsonl", "2 shards of one split, each once"),
    ),
    "file: shards of two exports": Case(
        lambda place: place.read(
            {},
            {
                "train-00000-of-00001.jsonl": rows(3),
                "train-00000-of-00002.jsonl": rows(3),
                "train-00001-of-00002.jsonl": rows(3, 3),
                "train.jsonl": None,
            },
        ),
        DataError,
        ("shards in", "an earlier export"),
    ),
    "file: compressed under another name": bad_file(
        "train.jsonl", gzip.compress(b"{}"), "can't decode byte 0x8b", "convert the file to UTF-8"
    ),
    "file: truncated JSON Lines": bad_file(
        "train.jsonl", bytes_of(GOOD_ROW) + b'\n{"prompt": "p', "line 2: not JSON: Unterminated string"
    ),
    "file: truncated JSON": bad_file("train.json", b'[{"prompt": "p"}, ', "not JSON: Expecting value"),
    "file: one object with the rows inside": bad_file("train.json", b'{"data": []}', "the columns {'data': 'list'}"),
    "file: latin-1": bad_file(
        "train.jsonl", '{"prompt": "é"}'.encode("latin-1"), "can't decode byte 0xe9", "UTF-8 text"
    ),
    "file: UTF-16": bad_file("train.jsonl", '{"prompt": "p"}'.encode("utf-16"), "can't decode byte 0xff", "UTF-8 text"),
    "file: CSV with a cell too many": bad_file(
        "train.csv", b"prompt,completion\na,b\nc,d,e\n", "line 3 has 3 cells, the header has 2"
    ),
    "file: CSV with a cell too few": bad_file(
        "train.csv", b"prompt,completion\na\n", "line 2 has 1 cells, the header has 2"
    ),
    "file: CSV with an open quote": bad_file("train.csv", b'prompt,completion\n"a,b\n', "unexpected end of data"),
    "file: CSV with one name twice": bad_file(
        "train.csv", b"prompt,prompt\na,b\n", "two columns of one name in the header: prompt, prompt"
    ),
    "file: CSV with semicolons": bad_file(
        "train.csv", b"prompt;completion\na;b\n", "the columns {'prompt;completion': 'str'}"
    ),
    "file: no Parquet": bad_file("train.parquet", b"PAR1 but no more PAR1", "train.parquet", "Parquet"),
    "file: Parquet cut off": bad_file("train.parquet", b"PAR1", "train.parquet", "Parquet"),
}
SPLITS = {
    "split: carve more than there is": bad_settings(
        DataError,
        "splits.validation",
        "9 train rows, 10 to carve",
        "rows left to train on",
        splits={"validation": {"carve": 10}},
    ),
    "split: carve leaves nothing": bad_settings(
        DataError, "9 train rows, 9 to carve", "carve fewer rows", splits={"validation": {"carve": 9}}
    ),
    "split: carve where all prompts are one": bad_file(
        "train.jsonl", [GOOD_ROW] * 20, "20 train rows, 2 to carve", splits={"validation": {"carve": 2}}
    ),
    "split: one prompt in two": Case(
        lambda place: place.read({}, {"train.jsonl": rows(9), "test.jsonl": rows(1, 8)}),
        SplitOverlapError,
        ("sub/train row 8 = sub/test row 0: 'p 8'", "on_overlap=warn"),
    ),
    "split: one file as two": bad_settings(
        SplitOverlapError, "9 texts stand in two splits", splits={"validation": "train"}
    ),
    "metric: choices that are not there": bad_settings(
        ConfigError, "sub.metric: multiple_choice, and a validation row has no choices", metric="multiple_choice"
    ),
    "metric: loss without selection by loss": bad_settings(
        ConfigError, "sub.metric: loss gives no accuracy; set evaluation.selection", metric="loss"
    ),
    "metric: numbers that are not there": _validation(
        {"prompt": "w", "completion": " a b"},
        DataError,
        "validation row 0",
        "the answer 'v', which is not one number",
        metric="numeric",
    ),
    "metric: #### without a number": Case(
        lambda place: place.read({}, {"validation.jsonl": [{"prompt": "v", "completion": " so #### many"}]}),
        DataError,
        ("validation row 0", "the answer 'so #### many', which is not one number", "set metric: exact_match"),
    ),
    "metric: a test row without choices": Case(
        lambda place: place.read({}, {"validation.jsonl": [{**GOOD_ROW, "prompt": "v", "choices": [" c", " d"]}]}),
        DataError,
        ("test row 0", "no choices", "rows that metric multiple_choice can score"),
    ),
    "metric: length of generation where rows have choices": Case(
        lambda place: place.read(
            {}, {"validation.jsonl": [{**GOOD_ROW, "prompt": "v", "choices": [" c", " d"]}]}, max_new_tokens=5
        ),
        ConfigError,
        ("sub.metric: all rows have choices, so max_new_tokens takes no effect",),
    ),
    "synthetic: unknown skill": Case(
        lambda place: place.prepare(place.config({"name": "sub", "synthetic": {"skill": "rman"}})),
        DataError,
        ("one of max, cnt", "write roman"),
    ),
    "synthetic: more rows than there are": Case(
        lambda place: place.prepare(
            place.config({"name": "sub", "synthetic": {"skill": "roman", "unique_rows": 9000}})
        ),
        DataError,
        ("unique prompts, and no new one", "lower synthetic.unique_rows"),
    ),
}
CASES = {**FILES, **SPLITS}


def _parquet_with_large_strings() -> bytes:
    import pyarrow
    from pyarrow.parquet import write_table

    sink = io.BytesIO()
    columns = {key: pyarrow.array([row[key] for row in rows(4)], pyarrow.large_string()) for key in GOOD_ROW}
    write_table(pyarrow.table(columns), sink)
    return sink.getvalue()


def _zstandard(content: bytes) -> bytes:
    import pyarrow

    return pyarrow.compress(content, codec="zstd", asbytes=True)  # type: ignore[no-any-return]


def _texts(name: str, content: Content, **sub: Any) -> Callable[[Place], object]:
    """Return the prompts and completions that the train split's file gives."""

    def read(place: Place) -> object:
        place.write(f"data/{name}", content)
        place.write("data/validation.jsonl", [{**GOOD_ROW, "q": "x", "a": "y"}])
        config = place.config({"name": "sub", "path": "data", "splits": {"test": None}, **sub})
        return [(row.prompt, row.completion) for row in read_splits(config, config.mixture.sub_datasets[0])["train"]]

    return read


def _hundreds(place: Place) -> object:
    """Prepare 300 sub-datasets of the same rows, which no rule forbids and the cache makes quick."""
    place.write("data/train.jsonl", rows(2))
    place.write("data/validation.jsonl", rows(1, 5))
    parts = ({"name": f"sub-{index}", "path": "data", "splits": {"test": None}} for index in range(300))
    return [ref.name for ref in place.prepare(place.config(*parts))] == [f"sub-{index}" for index in range(300)]


def _num_rows(files: Mapping[str, Content], **sub: Any) -> Callable[[Place], object]:
    return lambda place: place.read({}, files, **sub).train.num_rows


UNUSUAL: dict[str, tuple[Callable[[Place], object], object]] = {
    "300 sub-datasets": (_hundreds, True),
    "data: a prompt that the tokenizer lacks letters of": (
        _num_rows({"train.jsonl": [{**GOOD_ROW, "prompt": "日本 é"}]}),
        1,
    ),
    "data: unicode": (
        _texts("train.jsonl", bytes_of({"prompt": "日本\u2028?", "completion": " 😀é"})),
        [("日本\u2028?", " 😀é")],
    ),
    "data: CRLF": (_texts("train.jsonl", bytes_of(GOOD_ROW) + b"\r\n"), [("p", " c")]),
    "data: byte order mark": (_texts("train.jsonl", b"\xef\xbb\xbf" + bytes_of(GOOD_ROW)), [("p", " c")]),
    "data: blank lines between": (
        _texts("train.jsonl", bytes_of(GOOD_ROW) + b"\n\n \n" + bytes_of(GOOD_ROW)),
        [("p", " c")] * 2,
    ),
    "data: lines in .json": (_texts("train.json", bytes_of(GOOD_ROW) + b"\n" + bytes_of(GOOD_ROW)), [("p", " c")] * 2),
    "data: columns that change their type": (
        _texts("train.jsonl", [{"q": 1, "a": "x"}, {"q": "one", "a": 2.5}], template=TEMPLATE),
        [("1", " x"), ("one", " 2.5")],
    ),
    "data: texts that look like dates or nothing": (
        _texts("train.csv", b"prompt,completion\n2024-01-01,None\nNA,null\n"),
        [("2024-01-01", "None"), ("NA", "null")],
    ),
    "data: CSV with quoted lines": (
        _texts("train.csv", b'prompt,completion\r\n"a\nb, ""c""","\nd"\r\n'),
        [('a\nb, "c"', "\nd")],
    ),
    "data: CSV with leading zeros": (_texts("train.csv", b"prompt,completion\n007,0042\n"), [("007", "0042")]),
    "data: CSV with a cell of 200,000 letters": (
        _texts("train.csv", b"prompt,completion\n" + b"p" * 200_000 + b",c\n"),
        [("p" * 200_000, "c")],
    ),
    "data: CSV with an empty optional column": (
        _texts("train.csv", b"prompt,completion,answer,choices\np,c,,\n"),
        [("p", "c")],
    ),
    "data: Parquet with large strings": (
        _texts("train.parquet", _parquet_with_large_strings()),
        [(row["prompt"], row["completion"]) for row in rows(4)],
    ),
    "data: a completion that begins a line": (_num_rows({"train.jsonl": [{"prompt": "p", "completion": "\nc"}]}), 1),
    "data: choices that are numbers": (
        _num_rows({"train.jsonl": [{**GOOD_ROW, "completion": " 2", "choices": [1, 2]}]}),
        1,
    ),
    "data: some rows with choices": (
        lambda place: (
            place.read(
                {},
                {
                    "validation.jsonl": [
                        {**GOOD_ROW, "prompt": "v", "choices": [" c", " d"]},
                        {**GOOD_ROW, "prompt": "w"},
                    ]
                },
            ).metric
        ),
        "exact_match",
    ),
    "data: compressed by gzip": (
        _texts("train.jsonl.gz", gzip.compress(b"\xef\xbb\xbf" + bytes_of({"prompt": "é", "completion": " c"}))),
        [("é", " c")],
    ),
    "data: compressed by Zstandard": (
        _texts("train.csv.zst", _zstandard(b"prompt,completion\np, c\n"), template=None),
        [("p", " c")],
    ),
    "data: cells between tabs": (_texts("train.tsv", b"prompt\tcompletion\na, b\t c\n"), [("a, b", " c")]),
    "data: shards in the order of their numbers": (
        lambda place: (
            place.write("data/train-00001-of-00002.jsonl", rows(1, 1))
            and _texts("train-00000-of-00002.jsonl", rows(1))(place)
        ),
        [("p 0", " 0"), ("p 1", " 1")],
    ),
    "data: shards in a folder of the split's name": (
        lambda place: place.write("data/train/0001.jsonl", rows(1, 1)) and _texts("train/0000.jsonl", rows(1))(place),
        [("p 0", " 0"), ("p 1", " 1")],
    ),
    "data: a template over numbers and truth values as they are written": (
        _texts(
            "train.jsonl",
            b'{"q": 0.30, "a": 1e3}\n{"q": 123456789012345678901.5, "a": -0}\n{"q": true, "a": 0.1}\n'
            b'{"q": 12345678901234567890123, "a": false}\n{"q": "0.50", "a": 1E+2}\n',
            template=TEMPLATE,
        ),
        [
            ("0.30", " 1e3"),
            ("123456789012345678901.5", " -0"),
            ("true", " 0.1"),
            ("12345678901234567890123", " false"),
            ("0.50", " 1E+2"),
        ],
    ),
    "data: choices that are decimals as they are written": (
        lambda place: (
            place.read(
                {}, {"train.jsonl": b'{"prompt": "p", "completion": " 0.50", "choices": [0.50, 0.5]}'}
            ).train.num_rows
        ),
        1,
    ),
    "data: no test split": (
        lambda place: place.read({}, {"test.jsonl": None}, splits={"test": None}).test_sha256,
        None,
    ),
    "data: the longest row that fits": (_num_rows({"train.jsonl": [{"prompt": "p" * 126, "completion": "c"}]}), 1),
    "data: more rows asked for than there are": (_num_rows({}, max_rows={"train": 10**12}), 9),
}
