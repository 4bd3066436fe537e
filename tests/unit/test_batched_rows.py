"""Rows are tokenized many at a time, with the tokens that each has alone."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data.boundaries import _LEADS, decode, encode_pair
from tasks.data.chats import Message
from tasks.data.encoder import _SLICE_CHARACTERS, Encoder, _slices
from tasks.data.examples import Example
from tasks.data.inputs import load_inputs
from tasks.data.tokenization import read_tokenized, tokenize_split
from tests.made_tokenizers import KINDS, TEMPLATES, make_tokenizer
from tests.unit.bad_input import Place
from tests.unit.bad_input import rows as make_rows

_TEXTS = st.text(alphabet="aPis 1.,-é\n日", min_size=1, max_size=12).filter(str.strip)


class CountedTokenizer:
    """A tokenizer, and how often it was called."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self.num_calls = tokenizer, 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.num_calls += 1
        return self._tokenizer(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def encoder_of(folder: Path, kind: str, template: str | None = None) -> Encoder:
    directory = folder / f"{kind}-{template}"
    if not directory.exists():
        make_tokenizer(kind, template).save_pretrained(str(directory))
    return Encoder(str(directory), 512, trust_remote_code=False)


def alone(encoder: Encoder, example: Example) -> Any:
    try:
        row = encoder.encode(example)
        encoder.check(row)
    except (ValueError, TypeError) as error:
        return repr(error)
    return row


def chat_of(*texts: str, choices: tuple[str, ...] = ()) -> Example:
    roles = ["user", "assistant"] * len(texts)
    return Example("p", texts[-1], texts[-1], choices, tuple(map(Message, roles, texts)))


@st.composite
def mixed_rows(draw: st.DrawFn) -> list[Example]:
    rows = []
    for texts in draw(st.lists(st.lists(_TEXTS, min_size=4, max_size=4, unique=True), min_size=2, max_size=5)):
        choices = draw(st.sampled_from([(), tuple(texts[1:]), (texts[1], texts[1] + "1")]))
        rows.append(chat_of(*texts) if draw(st.booleans()) else Example(texts[0], texts[1], texts[1], choices))
    return rows


@given(mixed_rows(), st.sampled_from(KINDS), st.sampled_from([*TEMPLATES]))
@settings(deadline=None)
def test_rows_together_have_the_tokens_of_each_alone(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Example], kind: str, template: str
) -> None:
    encoder = encoder_of(tmp_path_factory.getbasetemp(), kind, template)
    together = [repr(row) if isinstance(row, Exception) else row for row in encoder.encode_all(rows)]
    assert together == [alone(encoder, row) for row in rows]


def by_single_texts(tokenizer: Any, prompt: str, completion: str) -> list[int]:
    """Return the tokens of a completion after its prompt, from one text a call."""

    def ids_of(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    before, joined = ids_of(prompt), ids_of(prompt + completion)
    if joined[: len(before)] == before and len(joined) > len(before):
        return joined[len(before) :]
    nested = []
    for lead in _LEADS:
        lead_ids, ids = ids_of(lead), ids_of(lead + completion)
        if lead_ids and ids[: len(lead_ids)] == lead_ids:
            if decode(tokenizer, ids) == decode(tokenizer, lead_ids) + completion:
                return ids[len(lead_ids) :]
            nested.append(ids[len(lead_ids) :])
    return nested[0] if nested else ids_of(completion)


@given(_TEXTS, _TEXTS, st.sampled_from(KINDS))
@settings(deadline=None)
def test_a_pair_has_the_tokens_of_single_calls(prompt: str, completion: str, kind: str) -> None:
    tokenizer = make_tokenizer(kind)
    expected = by_single_texts(tokenizer, prompt, completion)
    try:
        row = encode_pair(tokenizer, prompt, completion)
    except ValueError:
        return  # the tokenizer changes its text
    assert row.completion == ([*expected, row.end] if expected[-1] != row.end else expected)


def test_the_tokenizer_is_called_once_for_many_rows(tmp_path: Path) -> None:
    encoder = encoder_of(tmp_path, "byte-level Llama 3", "chatml")
    mixture = {
        "multiple_choice": [Example(f"q {i}? ", "yes", "yes", ("yes", "no", f"n {i}")) for i in range(40)],
        "chat": [chat_of(f"a {i}", "yo", f"b {i}", "yo") for i in range(40)],
        "numeric": [Example(f"{i} + 1?", f" so\n#### {i + 1}", str(i + 1)) for i in range(40)],
        "exact_match": [Example(f"say {i}:", f" {i}", str(i)) for i in range(40)],
        "loss": [Example("Once", f" there were {i}", str(i), is_text=True) for i in range(40)],
    }
    plain = encoder.tokenizer
    for metric, rows in mixture.items():
        encoder.tokenizer = CountedTokenizer(plain)
        tokenize_split(encoder, metric, "train", rows, tmp_path / "cache", "error")
        own = 0.1 * len(rows)
        assert encoder.tokenizer.num_calls <= own, metric


def test_a_row_that_the_tokenizer_refuses_takes_no_other_along(tmp_path: Path) -> None:
    encoder = encoder_of(tmp_path, KINDS[0])
    good, bad = Example("a", " b", "b"), Example("a", "\ud800", "b")
    first, refused, last = encoder.encode_all([good, bad, good])
    assert first == last == encoder.encode(good)
    assert isinstance(refused, TypeError)


def test_a_slice_is_bounded_by_the_characters_of_its_rows(tmp_path: Path) -> None:
    rows = [Example("p" * (_SLICE_CHARACTERS // 3), "c", "c")] * 7 + [Example("p", "c", "c")] * 25_000
    parts = list(_slices(rows))
    assert [row for part in parts for row in part] == rows
    assert [len(part) for part in parts] == [3, 3, 10_000, 10_000, 5_001]


def test_a_split_of_many_slices_is_read_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.data.encoder._SLICE_ROWS", 7)
    monkeypatch.setattr("tasks.data.tokenization._WRITTEN_ROWS", 3)
    encoder = encoder_of(tmp_path, KINDS[0])
    rows = [Example(f"p {i}", f" {i}", str(i)) for i in range(30)]
    split = tokenize_split(encoder, "a", "train", rows, tmp_path / "cache", "error")
    read = read_tokenized(split)
    assert [row["answer"] for row in read] == [str(i) for i in range(30)]
    assert split.num_tokens == sum(row["num_tokens"] for row in read)
    assert all(a["input_ids"] != b["input_ids"] for a, b in pairwise(read))


def test_rows_are_counted_as_they_are_prepared(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are in the cache too."""
    monkeypatch.setattr("tasks.data.encoder._SLICE_ROWS", 4)
    for name in ("a", "b"):
        for split, count in {"train": 9, "validation": 3, "test": 2}.items():
            place.write(f"{name}/{split}.jsonl", make_rows(count, ord(name) * 1000 + 100 * count))
    config = place.config({"name": "a", "path": "a"}, {"name": "b", "path": "b"})
    told: list[tuple[int, int]] = []
    for _ in range(2):
        load_inputs(config, lambda done, total: told.append((done, total)))
    done = [done for done, total in told if total == 28]
    assert len(done) == len(told)
    assert done[:6] == [4, 8, 9, 12, 14, 14]
    assert done[-2:] == [14, 28]
