"""Encode examples as the columns of tokenized rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from itertools import pairwise
from typing import Any

from tasks.config.schema import SearchConfig
from tasks.contracts import BaseModelRef
from tasks.data.boundaries import EncodedText, chat_tokens, decode, pair_tokens
from tasks.data.chat_template import THOUGHT_END, render_chat, with_fixed_date
from tasks.data.examples import Example
from tasks.data.token_calls import UNUSABLE, Asking, run_together
from tasks.errors import ConfigError, ModelError
from tasks.runtime.processes import without_torch
from tasks.runtime.spans import span

# Part of the cache's key; raised when `encode` returns other columns for the same text.
_ENCODING_VERSION = 5
# Rows that share their calls of the tokenizer; characters bound the memory where rows are long.
_SLICE_ROWS, _SLICE_CHARACTERS = 10_000, 1_000_000


class Encoder:
    """Encodes examples as token ids with one tokenizer."""

    def __init__(
        self,
        directory: str,
        max_length: int,
        *,
        trust_remote_code: bool,
        num_embeddings: int = 0,
        chat_template: str | None = None,
    ) -> None:
        with nullcontext() if trust_remote_code else without_torch():  # code from a hub may need it
            from transformers import AutoTokenizer
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code)
        except Exception as error:  # `tokenizers` raises bare Exception for a file that it cannot read
            raise ModelError(
                directory,
                got=f"a tokenizer that cannot be loaded: {' '.join(str(error).split())[:200]}",
                expected="tokenizer files as save_pretrained writes them",
                fix="save the tokenizer beside the model again, or set model.tokenizer",
            ) from error
        self.tokenizer.chat_template = with_fixed_date(chat_template or self.tokenizer.chat_template)
        self.max_length = max_length
        self.on_rows: Callable[[int], None] = lambda count: None  # told how many rows of a slice have been encoded
        self.num_embeddings = num_embeddings

    @cached_property
    def fingerprint(self) -> str:
        """Return a hash of everything in the tokenizer that changes its output."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        content = backend.to_str() if backend is not None else json.dumps(self.tokenizer.get_vocab())
        parts = [content, str(self.tokenizer.chat_template), str(self.tokenizer.eos_token), str(_ENCODING_VERSION)]
        return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()

    def encode(self, example: Example) -> dict[str, Any]:
        """Return the columns of a row, and `notes` on what its text lost.

        input_ids: prompt, completion and one end. loss_mask: 1 where a token is learned.
        prompt_length: number of tokens before the completion that is evaluated. choice_ids: tokens of each choice, with
        an end where the tokens of one choice begin those of another. choices: their texts. gold: index of the right
        choice, -1 without choices. completion: text that is compared in an exact match. answer: text with the numeric
        answer.

        Raises:
            ValueError: the row's text cannot be told from its tokens, so that another text would be learned.
        """
        (row,) = self._encode([example])
        if isinstance(row, Exception):
            raise row
        return row

    def encode_all(self, examples: Sequence[Example]) -> Iterator[dict[str, Any] | Exception]:
        """Yield what `encode` and `check` make of each example: its columns, or the error.

        The rows of a slice share their calls of the tokenizer.
        """
        for part in _slices(examples):
            with span("tokenized rows") as figures:
                figures["rows"] = len(part)
                rows = list(self._encode(part))
            for row in rows:
                yield row if isinstance(row, Exception) else self._checked(row)
            self.on_rows(len(part))

    def _encode(self, examples: Sequence[Example]) -> Iterator[dict[str, Any] | Exception]:
        """Yield the columns of each example, or the error that it raises."""
        choices = [[one for one in dict.fromkeys(own.choices) if one != own.completion] for own in examples]
        asked = [
            self._tokens(one)
            for own, others in zip(examples, choices, strict=True)
            for one in (own, *map(own.with_completion, others))
        ]
        encoded = iter(run_together(self.tokenizer, asked))
        for example, others in zip(examples, choices, strict=True):
            texts = {text: next(encoded) for text in (example.completion, *others)}
            try:
                yield self._columns(example, {text: _unless_error(one) for text, one in texts.items()})
            except UNUSABLE as error:
                yield error

    def _columns(self, example: Example, encoded: Mapping[str, EncodedText]) -> dict[str, Any]:
        """Return the columns of a row, given the tokens of its completion and of the other choices."""
        right = encoded[example.completion]
        return {
            "input_ids": right.ids,
            "loss_mask": right.loss_mask,
            "prompt_length": len(right.prompt),
            "choice_ids": _choice_ids(example, right, [encoded[choice] for choice in example.choices]),
            "choices": list(example.choices),
            "gold": example.choices.index(example.completion) if example.choices else -1,
            "completion": self._compared(example, right),
            "answer": example.answer,
            "num_tokens": len(right.ids),
            "notes": right.notes,
        }

    def _checked(self, row: dict[str, Any]) -> dict[str, Any] | Exception:
        try:
            self.check(row)
        except UNUSABLE as error:
            return error
        return row

    def _compared(self, example: Example, encoded: EncodedText) -> str:
        """Return the text that a right generation has: the row's, unless template or tokenizer give it another form."""
        said = decode(self.tokenizer, [t for t in encoded.completion if t != encoded.end], skip_special_tokens=True)
        said = (said.rpartition(THOUGHT_END)[2] if example.messages else said).strip()
        is_same = said == example.completion.strip() or self.tokenizer.unk_token_id in encoded.completion
        return example.completion if is_same else said

    def check(self, row: Mapping[str, Any]) -> None:
        """Check that a row can be scored and that the tokenizer knows its completion.

        Raises:
            ValueError: it cannot, or it does not; the text gives the reason.
        """
        learned = [token for token, flag in zip(row["input_ids"], row["loss_mask"], strict=True) if flag]
        largest = max(row["input_ids"], default=0)
        # Only tokens in use: some tokenizers have one (for padding, for images) that the model never sees.
        if 0 < self.num_embeddings <= largest:
            known = f"the model has the tokens 0 to {self.num_embeddings - 1}"
            raise ValueError(f"token {largest} ({self.tokenizer.decode([largest])!r}), and {known}")
        if row["prompt_length"] == 0:
            raise ValueError("a prompt of no tokens, so nothing comes before the completion's first token")
        if not any(row["loss_mask"]) or not all(row["choice_ids"]):
            raise ValueError("a completion or choice of no tokens")
        unknown = self.tokenizer.unk_token_id
        texts = [("completion", row["completion"], learned)]
        texts += [("choice", *pair) for pair in zip(row["choices"], row["choice_ids"], strict=True)]
        for kind, text, tokens in texts:
            if unknown != self.tokenizer.eos_token_id and unknown in tokens:
                raise ValueError(f"a {kind} with characters that the tokenizer does not know: {text!r:.80}")

    def _tokens(self, example: Example) -> Asking[EncodedText]:
        if not example.messages:
            return (yield from pair_tokens(self.tokenizer, example.prompt, example.completion))
        chat = render_chat(self.tokenizer, example.messages, example.template_options)
        return (yield from chat_tokens(self.tokenizer, chat))


def make_encoder(config: SearchConfig, model: BaseModelRef) -> Encoder:
    """Return the encoder of a search's rows.

    Raises:
        ConfigError, ModelError: the model has too few positions, or its tokenizer cannot be loaded.
    """
    limit = model.max_positions
    if limit is not None and config.training.max_length > limit:
        raise ConfigError(
            config.name, [f"training.max_length: the model has {limit} positions; got {config.training.max_length}"]
        )
    return Encoder(
        model.directory,
        config.training.max_length,
        trust_remote_code=model.trust_remote_code,
        num_embeddings=model.vocab_size,
        chat_template=model.chat_template,
    )


def _unless_error(encoded: EncodedText | Exception) -> EncodedText:
    if isinstance(encoded, Exception):
        raise encoded
    return encoded


def _choice_ids(example: Example, right: EncodedText, encoded: Sequence[EncodedText]) -> list[list[int]]:
    """Return the tokens of each choice after the row's prompt.

    Raises:
        ValueError: two choices have the same tokens, or one begins another and nothing can end it.
    """
    texts = [(one.completion[:-1] if one.end is not None else one.completion) for one in encoded]
    if any(one.prompt != right.prompt for one in encoded):
        raise ValueError("choices that the chat template renders with different prompts")
    ordered = sorted(texts)
    if any(a == b for a, b in pairwise(ordered)):
        raise ValueError(f"two choices with the same tokens among {list(example.choices)!r:.120}")
    if all(longer[: len(shorter)] != shorter for shorter, longer in pairwise(ordered)):
        return texts
    if right.end is None:
        raise ValueError("a choice that begins another, and no end-of-text token to tell them apart")
    return [one.completion for one in encoded]


def _slices(examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
    """Yield the examples in runs that are tokenized together."""
    start, size = 0, 0
    for index, example in enumerate(examples):
        size += len(example.prompt) + len(example.completion) + sum(map(len, example.choices))
        if size >= _SLICE_CHARACTERS or index + 1 - start == _SLICE_ROWS:
            yield examples[start : index + 1]
            start, size = index + 1, 0
    if start < len(examples):
        yield examples[start:]
