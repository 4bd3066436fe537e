"""A text of one split that another split holds is found, whatever form it has there; carving splits none."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.config.sub_datasets import SubDatasetConfig
from tasks.data.examples import Example, to_example
from tasks.data.leaks import comparable, conversations, shared_texts
from tasks.data.sources import read_splits
from tests.unit.bad_input import Place

TURNS = [
    ("user", "hi"),
    ("assistant", "yo"),
    ("user", "why?"),
    ("assistant", "so."),
    ("user", "ah"),
    ("assistant", "!"),
]


def _chat(*turns: tuple[str, str]) -> Example:
    messages = [{"role": role, "content": content} for role, content in turns]
    return to_example(SubDatasetConfig(name="sub", path="p"), {"messages": messages}, "row")


def _plain(prompt: str, completion: str = " x") -> Example:
    return Example(prompt, completion, completion.strip())


def _found(train: Example, validation: Example) -> list[str]:
    return shared_texts([("train", "train row 0", train), ("validation", "validation row 0", validation)])


@pytest.mark.parametrize("length", [2, 4])
def test_a_chat_that_begins_another_is_a_leak(length: int) -> None:
    short, long = _chat(*TURNS[:length]), _chat(*TURNS)
    assert len(_found(short, long)) == len(_found(long, short)) == 1
    assert "train row 0 begins validation row 0: 'user: hi assistant:" in _found(short, long)[0]
    assert "validation row 0 begins train row 0" in _found(long, short)[0]


def test_another_answer_to_the_same_turns_is_a_leak() -> None:
    assert len(_found(_chat(TURNS[0], ("assistant", "other")), _chat(*TURNS))) == 1


def test_a_text_that_goes_on_after_another_is_a_leak() -> None:
    first, second = _plain("User: hi\nBot:", " yo"), _plain("User: hi\nBot: yo\nUser: why?\nBot:", " so.")
    assert len(_found(first, second)) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (_plain("1+1=", " 2"), _plain("1+1= 23 and", " x")),  # breaks off inside a number
        (_plain("1+1=", " 2"), _plain("1+1", " 2")),
        (_chat(("user", "hi"), ("assistant", "yo")), _chat(("user", "hi there"), ("assistant", "yo"))),
        (_plain("2²"), _plain("22")),
        (_plain("a"), _plain("A")),
    ],
)
def test_texts_that_only_look_alike_are_no_leak(one: Example, other: Example) -> None:
    assert _found(one, other) == _found(other, one) == []


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_one_text_in_two_unicode_forms_is_a_leak(form: str) -> None:
    text = "Où est l'école ﬁnale du Å\uff21 ？ 각"
    assert len(_found(_plain(text), _plain(unicodedata.normalize(form, text)))) == 1


@pytest.mark.parametrize("mark", ["\u200b", "\u00ad", "\ufeff", "\u200e", " \u00a0\u3000\t"])
def test_what_the_eye_does_not_see_makes_no_other_text(mark: str) -> None:
    assert comparable(f"a {mark}b") == "a b"


def test_carving_keeps_a_chat_of_a_row_a_turn_together(tmp_path: Path) -> None:
    rows = []
    for number in range(12):
        turns = [{"role": role, "content": f"{content} {number}"} for role, content in TURNS]
        rows += [{"messages": turns[:length]} for length in (2, 4, 6)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = Place(tmp_path, tmp_path).config(
        {"name": "sub", "path": "data.jsonl", "splits": {"validation": {"carve": 6}, "test": {"carve": 6}}}
    )
    splits = read_splits(config, config.mixture.sub_datasets[0])
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 24, "validation": 6, "test": 6}
    assert shared_texts((split, split, row) for split, rows in splits.items() for row in rows) == []


def test_rows_that_share_nothing_stay_apart_in_their_order() -> None:
    rows = [_plain("b"), _plain("a"), _plain("b", " y"), _plain("c")]
    assert conversations(rows) == [[0, 2], [1], [3]]


@given(
    chats=st.lists(st.lists(st.sampled_from("ab"), min_size=1, max_size=4), min_size=1, max_size=12),
    as_chat=st.booleans(),
)
def test_no_two_groups_that_stay_together_share_a_text(chats: list[list[str]], as_chat: bool) -> None:
    rows = []
    for contents in chats:
        turns = [turn for content in contents for turn in (("user", content), ("assistant", f"re {content}"))]
        text = "".join(f"\n{role}: {content}" for role, content in turns[:-1])
        rows.append(_chat(*turns) if as_chat else _plain(f"{text}\nassistant:", f" {turns[-1][1]}"))
    groups = conversations(rows)
    assert sorted(index for group in groups for index in group) == list(range(len(rows)))
    assert shared_texts((str(n), "", rows[index]) for n, group in enumerate(groups) for index in group) == []
