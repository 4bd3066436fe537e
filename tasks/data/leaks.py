"""Rows that share their text: in two splits they are leaks, and carving keeps them on one side."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from tasks.data.examples import Example

# NFKC would make 2² the text 22.
_KEPT_FORMS = ("<super>", "<sub>", "<fraction>")


def comparable(text: str) -> str:
    """Return a text without what the eye does not see: white space, Unicode normal forms, invisible characters."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", "".join(map(_plain, text)))
    return " ".join(text.split())


@lru_cache(maxsize=4096)
def _plain(character: str) -> str:
    if unicodedata.category(character) == "Cf":  # a soft hyphen, a joiner, a mark of direction
        return ""
    is_kept = unicodedata.decomposition(character).startswith(_KEPT_FORMS)
    return character if is_kept else unicodedata.normalize("NFKC", character)


def shared_texts(rows: Iterable[tuple[str, str, Example]]) -> list[str]:
    """Return in words each row whose prompt stands in another split, or that goes on where a row of another ends.

    Args:
        rows: (split, place for messages, example) of all rows.
    """
    located = [(split, where, _asked(row), _stem(row)) for split, where, row in rows]
    shared: list[str] = []
    first: dict[str, tuple[str, str]] = {}
    stems: dict[str, dict[str, str]] = {}
    for split, where, asked, stem in located:
        split_before, where_before = first.setdefault(asked, (split, where))
        if split_before != split:
            shared.append(f"{where_before} = {where}: {asked!r:.80}")
        stems.setdefault(stem, {}).setdefault(split, where)
    for stem, index in _beginnings(stems, [asked for _, _, asked, _ in located]):
        split, where = located[index][:2]
        shared += [f"{begun} begins {where}: {stem!r:.80}" for other, begun in stems[stem].items() if other != split]
    return shared


def conversations(rows: Sequence[Example]) -> list[list[int]]:
    """Return the indices of rows that have to stay together, in the order of the first of each.

    Rows stay together where they have one prompt, or where one goes on from another, as in a chat with a row a turn.
    """
    root = list(range(len(rows)))

    def find(index: int) -> int:
        while root[index] != index:
            root[index] = index = root[root[index]]
        return index

    def join(one: int, other: int) -> None:
        low, high = sorted((find(one), find(other)))
        root[high] = low

    asked = [_asked(row) for row in rows]
    first: dict[str, int] = {}
    stems: dict[str, int] = {}
    for index, row in enumerate(rows):
        join(first.setdefault(asked[index], index), index)
        join(stems.setdefault(_stem(row), index), index)
    for stem, index in _beginnings(stems, asked):
        join(stems[stem], index)
    groups: dict[int, list[int]] = {}
    for index in range(len(rows)):
        groups.setdefault(find(index), []).append(index)
    return list(groups.values())


def _asked(row: Example) -> str:
    return comparable(row.prompt + row.completion if row.is_text else row.prompt)


def _stem(row: Example) -> str:
    """Return the text with which a row goes on from this one: a chat with any answer, another text with its own."""
    return comparable(f"{row.prompt}\nassistant:" if row.messages else row.prompt + row.completion)


def _beginnings(stems: Mapping[str, object], texts: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield (stem, index) for each text that a stem begins and does not break off inside a word.

    In sorted order a text comes after all of its beginnings, with nothing between that they do not begin as well.
    """
    begun: list[str] = []
    for text, index in sorted([*((stem, -1) for stem in stems if stem), *zip(texts, range(len(texts)), strict=True)]):
        while begun and not text.startswith(begun[-1]):
            begun.pop()
        if index < 0:
            begun.append(text)
            continue
        for stem in begun:
            if not text[len(stem) : len(stem) + 1].isalnum():
                yield stem, index
