"""Rows as the model sees them: the tokens, which of them are learned, and what is wrong or dropped."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from tasks.config.schema import SearchConfig
from tasks.data.base_model import prepare_base_model
from tasks.data.boundaries import decode
from tasks.data.encoder import Encoder, make_encoder
from tasks.data.examples import Example
from tasks.data.inputs import answer_warnings
from tasks.data.sources import SPLITS, read_splits
from tasks.errors import ConfigError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InspectedChoice:
    """One choice of a row, with the texts of its tokens and, where it is scored with one, of its end."""

    text: str
    tokens: tuple[str, ...]
    is_right: bool


@dataclass(frozen=True)
class InspectedRow:
    """One row, decoded from its token ids.

    Attributes:
        where: file or split, and row, as in the source.
        prompt: the text before what is scored.
        supervised: the texts that are learned: the completion with its end, or each turn of the assistant.
        tokens: the text of each token; joined, the row's text. A token that ends within a character has none.
        problem: why the row cannot be used, or is dropped; empty if neither.
        notes: what of the row's text the model does not see.
    """

    sub_dataset: str
    split: str
    row: int
    where: str
    prompt: str
    supervised: tuple[str, ...]
    tokens: tuple[str, ...]
    loss_mask: tuple[int, ...]
    choices: tuple[InspectedChoice, ...]
    problem: str
    notes: tuple[str, ...]

    @property
    def remarks(self) -> tuple[str, ...]:
        """Return the problem, if there is one, and the notes."""
        return tuple(filter(None, (self.problem, *self.notes)))

    @property
    def parts(self) -> list[tuple[bool, list[str]]]:
        """Return the tokens in runs of those that are learned, or not."""
        pairs = zip(self.loss_mask, self.tokens, strict=True)
        return [(bool(flag), [token for _, token in run]) for flag, run in groupby(pairs, key=lambda pair: pair[0])]


def inspect_rows(config: SearchConfig, name: str | None = None, split: str | None = None) -> Iterator[InspectedRow]:
    """Yield the rows of the sub-datasets, or of one, as they are trained and scored.

    Args:
        split: default: train and validation; test rows are shown to a person only if that is asked for.

    Raises:
        ConfigError: there is no such sub-dataset.
        DataError: the rows cannot be read.
    """
    names = [sub_dataset.name for sub_dataset in config.mixture.sub_datasets]
    if name is not None and name not in names:
        raise ConfigError(config.name, [f"no sub-dataset {name!r}; the mixture has {', '.join(names)}"])
    encoder = make_encoder(config, prepare_base_model(config))
    for sub_dataset in config.mixture.sub_datasets:
        splits = read_splits(config, sub_dataset) if name in (None, sub_dataset.name) else {}
        for warning in answer_warnings(config, sub_dataset, splits) if splits else ():
            logger.warning(warning)
        wanted = (split,) if split is not None else SPLITS[:2]
        for place in wanted:
            examples = splits.get(place, [])
            for index, (example, row) in enumerate(zip(examples, encoder.encode_all(examples), strict=True)):
                yield _inspected(encoder, (sub_dataset.name, place, index), example, row, config.mixture.on_too_long)


def _inspected(
    encoder: Encoder, place: tuple[str, str, int], example: Example, row: dict[str, Any] | Exception, on_too_long: str
) -> InspectedRow:
    if isinstance(row, Exception):
        problem = " ".join(str(row).split())
        return InspectedRow(*place, example.where, example.prompt, (example.completion,), (), (), (), problem, ())
    ids, tokenizer = row["input_ids"], encoder.tokenizer
    tokens = _texts(tokenizer, ids)
    runs = groupby(zip(row["loss_mask"], tokens, strict=True), key=lambda pair: pair[0])
    return InspectedRow(
        *place,
        where=example.where,
        prompt=decode(tokenizer, ids[: row["prompt_length"]]),
        supervised=tuple("".join(token for _, token in run) for flag, run in runs if flag),
        tokens=tokens,
        loss_mask=tuple(row["loss_mask"]),
        choices=tuple(
            InspectedChoice(text, _texts(tokenizer, choice), index == row["gold"])
            for index, (text, choice) in enumerate(zip(example.choices, row["choice_ids"], strict=True))
        ),
        problem=_too_long(row["num_tokens"], encoder.max_length, on_too_long),
        notes=tuple(row["notes"]),
    )


def _too_long(num_tokens: int, most: int, on_too_long: str) -> str:
    verb = "dropped" if on_too_long == "drop" else "too long"
    return f"{verb}: {num_tokens} tokens, and training.max_length is {most}" if num_tokens > most else ""


def _texts(tokenizer: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """Return the text that each token adds to those before it."""
    texts: list[str] = []
    begun, read = 0, 0  # decoded together, since a tokenizer strips the space of a first token
    for end in range(1, len(ids) + 1):
        before, now = decode(tokenizer, ids[begun:read]), decode(tokenizer, ids[begun:end])
        is_whole = not now.endswith("\ufffd") or end == len(ids)
        texts.append(now[len(before) :] if is_whole else "")
        if is_whole:
            begun, read = read, end
    return tuple(texts)
