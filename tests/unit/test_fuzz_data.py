"""Whatever a row, a data file or a journal holds, it is read or refused by its name."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.config.sub_datasets import SubDatasetConfig
from tasks.data.examples import Example, to_example
from tasks.data.sources import read_splits
from tasks.errors import DataError, JournalError
from tasks.record.journal import read_events
from tasks.record.paths import JOURNAL
from tests.unit.bad_input import Place, outcome
from tests.unit.fuzz_values import SCALARS, TEXTS

COLUMNS = st.sampled_from(["prompt", "completion", "answer", "choices", "messages", "q", "a", "role", "content"])
CELLS = st.recursive(
    SCALARS | st.sampled_from(["A", " A", "assistant", "user"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(COLUMNS | TEXTS, inner, max_size=3),
    max_leaves=6,
)
TURNS = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]) | CELLS, "content": TEXTS | CELLS}),
    max_size=3,
)
ROWS = st.dictionaries(COLUMNS | TEXTS, CELLS, max_size=5) | st.fixed_dictionaries(
    {"prompt": TEXTS, "completion": TEXTS},
    optional={"answer": CELLS, "choices": st.lists(TEXTS, max_size=3) | CELLS, "messages": TURNS},
)
TEMPLATES = (
    st.none()
    | st.fixed_dictionaries(
        {
            "prompt": st.sampled_from(["{q}", "{q[0]}", "{q.real:{a}}", "{a:d}", "{q!r:>5}", "x"]),
            "completion": st.sampled_from([" {a}", "{a[role]}", "{a:c}"]),
        },
        optional={
            "choices": st.sampled_from(["q", "choices", ["{a}", "{q}"]]),
            "answer": st.sampled_from(["{a}", "{q}", ""]),
        },
    )
    | st.fixed_dictionaries(
        {
            "prompt": st.sampled_from(["{options}", "{q}"]),
            "completion": st.sampled_from([" {letter}", "{option}", "{option}{a}"]),
            "options": st.fixed_dictionaries(
                {
                    "texts": st.sampled_from(
                        ["choices", "q[a]", "a.b", "0", "q[", ["{a}", "{q}"], ["{a}", "{a}", "x"]]
                    ),
                    "right": st.sampled_from(["A", "B", "{a}", "{q[0]}"]),
                },
                optional={"labels": st.sampled_from(["choices", ["A", "B"], []]), "shuffle": st.booleans()},
            ),
        }
    )
)


@given(row=ROWS, template=TEMPLATES)
def test_any_row_is_an_example_or_refused_by_its_name(row: dict[str, Any], template: Any) -> None:
    sub_dataset = SubDatasetConfig.model_validate({"name": "sub", "path": "p", "template": template})
    read, refusal = outcome(DataError, lambda: to_example(sub_dataset, row, "file row 7"))
    if refusal:
        assert refusal.startswith("sub-dataset 'sub', file row 7\n")
        return
    assert isinstance(read, Example)
    assert read.completion.strip()
    assert read.answer.strip()
    assert not read.choices or read.choices.count(read.completion) == 1


GOOD_FILES = {
    ".jsonl": b'{"prompt": "p", "completion": " c"}\n{"prompt": "q", "completion": " d"}\n',
    ".json": b'[{"prompt": "p", "completion": " c"}, {"prompt": "q", "completion": " d"}]',
    ".csv": b'prompt,completion\np, c\n"q",d\n',
}


@pytest.fixture(scope="module")
def good_files() -> dict[str, bytes]:
    from pyarrow import BufferOutputStream, Table
    from pyarrow.parquet import write_table

    sink = BufferOutputStream()
    write_table(Table.from_pylist([{"prompt": "p", "completion": " c"}] * 3), sink)
    return {**GOOD_FILES, ".parquet": sink.getvalue().to_pybytes()}


@given(ending=st.sampled_from([".jsonl", ".json", ".csv", ".parquet"]), data=st.data())
def test_any_bytes_as_a_data_file_are_rows_or_refused(
    good_files: dict[str, bytes], ending: str, data: st.DataObject
) -> None:
    good = good_files[ending]
    start, length = data.draw(st.integers(0, len(good))), data.draw(st.integers(0, 8))
    content = good[:start] + data.draw(st.binary(max_size=8)) + good[start + length :]
    content = data.draw(st.just(content) | st.binary(max_size=40))
    with tempfile.TemporaryDirectory() as directory:
        place = Place(Path(directory), base=Path("none"))
        place.write(f"train{ending}", content)
        place.write("validation.jsonl", GOOD_FILES[".jsonl"])
        config = place.config({"name": "sub", "path": ".", "splits": {"test": None}})
        splits, refusal = outcome(DataError, lambda: read_splits(config, config.mixture.sub_datasets[0]))
        assert f"train{ending}" in refusal if refusal else splits["train"]


EVENTS = st.binary(max_size=40) | st.lists(
    st.sampled_from(
        [
            b'{"event": "world_changed", "differences": [], "world": {}}',
            b'{"kind": "environment_changed", "version": 2, "differences": [], "numerical_environment": {}}',
            b'{"event": "round_decided", "round": null}',
            b'{"event": "a"}',
            b'{"event": ["a"]}',
            b'{"event": "a", "version": 9}',
            b'{"event": 1, "x": [',
            b"null",
            b"[]",
            b"",
            b'"event"',
            b"\xff",
            b"1" * 5000,
            b"[" * 3000,
        ]
    ),
    max_size=4,
).map(b"\n".join)


@given(content=EVENTS, end=st.sampled_from([b"", b"\n"]))
def test_any_bytes_as_a_journal_are_events_or_refused(content: bytes, end: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, JOURNAL).write_bytes(content + end)
        events, refusal = outcome(JournalError, lambda: read_events(directory))
    if refusal:
        assert f"{JOURNAL}, line " in refusal
    else:
        assert len(events) == (content + end).count(b"\n")
        assert all(event.kind == "environment_changed" for event in events)
