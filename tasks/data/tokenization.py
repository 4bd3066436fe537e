"""Tokenize a split once; the cache is keyed by content."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from tasks.contracts import SplitRef
from tasks.data.boundaries import EncodedText, decode, encode_chat, encode_pair
from tasks.data.chat_template import THOUGHT_END, render_chat, with_fixed_date
from tasks.data.examples import Example, fingerprint
from tasks.data.problems import Problems
from tasks.errors import DataError, ModelError
from tasks.runtime.files import publish_folder

logger = logging.getLogger(__name__)

# What `Encoder.encode` and `check` raise for a row, the tokenizer's and the chat template's own errors included.
UNUSABLE = (ValueError, TypeError, NotImplementedError, TemplateError)
# Part of the cache's key; raised when `encode` returns other columns for the same text.
_ENCODING_VERSION = 5


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
        encoded = self._encode(example)
        return {
            "input_ids": encoded.ids,
            "loss_mask": encoded.loss_mask,
            "prompt_length": len(encoded.prompt),
            "choice_ids": self._choices(example, encoded),
            "choices": list(example.choices),
            "gold": example.choices.index(example.completion) if example.choices else -1,
            "completion": self._compared(example, encoded),
            "answer": example.answer,
            "num_tokens": len(encoded.ids),
            "notes": encoded.notes,
        }

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

    def _encode(self, example: Example) -> EncodedText:
        if not example.messages:
            return encode_pair(self.tokenizer, example.prompt, example.completion)
        chat = render_chat(self.tokenizer, example.messages, example.template_options)
        return encode_chat(self.tokenizer, chat)

    def _choices(self, example: Example, right: EncodedText) -> list[list[int]]:
        """Return the tokens of each choice after the row's prompt.

        Raises:
            ValueError: two choices have the same tokens, or one begins another and nothing can end it.
        """
        encoded = [
            right if choice == example.completion else self._encode(example.with_completion(choice))
            for choice in example.choices
        ]
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


def tokenize_split(
    encoder: Encoder, name: str, split: str, examples: Sequence[Example], cache: Path, on_too_long: str
) -> SplitRef:
    """Return the tokenized split, from `cache` where it has the same content.

    Args:
        name, split: sub-dataset and split, for messages.
        on_too_long: `drop` or `error`, for a row longer than the encoder's max_length.

    Raises:
        DataError: a row is too long or cannot be encoded, or no row is left.
    """
    texts = fingerprint(examples)
    key = hashlib.sha256(f"{texts}/{encoder.fingerprint}/{encoder.max_length}/{on_too_long}".encode()).hexdigest()
    directory = cache / key[:32]
    if not (directory / "split.json").is_file():
        rows = _encode_all(encoder, name, split, examples, on_too_long)
        _publish(rows, directory, texts)
    meta: dict[str, Any] = json.loads((directory / "split.json").read_text())
    for note, count in meta.pop("notes").items():
        logger.warning(f"{name}/{split}: {note}, in {count} of {meta['num_rows']} rows; msft inspect shows them")
    return SplitRef(directory=str(directory.resolve()), **meta)


def read_tokenized(split: SplitRef) -> Any:
    """Return the rows of a tokenized split."""
    import datasets

    return datasets.load_from_disk(split.directory)


def _encode_all(
    encoder: Encoder, name: str, split: str, examples: Sequence[Example], on_too_long: str
) -> list[dict[str, Any]]:
    rows = []
    problems = Problems()
    for index, example in enumerate(examples):
        with problems.collected():
            row = encode_row(encoder, name, f"{split} row {index}", example)
            if row["num_tokens"] <= encoder.max_length:
                rows.append(row)
            elif on_too_long == "error":
                raise too_long(encoder, name, f"{split} row {index}", example, row)
    problems.check()
    if not rows:
        raise DataError(
            name,
            split,
            got="every row is longer than training.max_length",
            expected="at least one row that fits",
            fix="raise training.max_length",
        )
    return rows


def encode_row(encoder: Encoder, name: str, where: str, example: Example) -> dict[str, Any]:
    """Return the columns of a row that can be learned and scored.

    Raises:
        DataError: it cannot be.
    """
    try:
        row = encoder.encode(example)
        encoder.check(row)
    except UNUSABLE as error:
        raise DataError(
            name,
            _located(where, example),
            got=" ".join(str(error).split())[:400],
            expected="a row that the tokenizer (and, for messages, its chat template) can encode",
            fix="fix the row, or set model.tokenizer to one that fits; messages need one with a chat template, "
            "or model.chat_template",
        ) from error
    return row


def too_long(encoder: Encoder, name: str, where: str, example: Example, row: Mapping[str, Any]) -> DataError:
    """Return the error for a row of more tokens than fit."""
    return DataError(
        name,
        _located(where, example),
        got=f"{row['num_tokens']} tokens ({row['prompt_length']} of them prompt)",
        expected=f"at most training.max_length = {encoder.max_length}",
        fix="raise training.max_length, shorten the row, or --set mixture.on_too_long=drop",
    )


def _located(where: str, example: Example) -> str:
    return f"{where} ({example.where})" if example.where else where


def _publish(rows: list[dict[str, Any]], directory: Path, texts: str) -> None:
    import datasets

    datasets.disable_progress_bars()
    meta = {
        "num_rows": len(rows),
        "num_tokens": sum(row["num_tokens"] for row in rows),
        "sha256": texts,
        "notes": Counter(note for row in rows for note in row.pop("notes")),
    }

    def write(staging: Path) -> None:
        datasets.Dataset.from_list(rows, features=_features()).save_to_disk(str(staging))
        (staging / "split.json").write_text(json.dumps(meta))

    publish_folder(directory, write, "a tokenized split")


def longest_completion(split: SplitRef) -> int:
    """Return the most tokens of a completion of the split, its end included."""
    import datasets

    columns = datasets.load_from_disk(split.directory).with_format("numpy", columns=["num_tokens", "prompt_length"])
    return int(max(columns["num_tokens"][:] - columns["prompt_length"][:]))


def _features() -> Any:
    from datasets import Features, List, Value

    return Features(
        input_ids=List(Value("int32")),
        loss_mask=List(Value("int8")),
        prompt_length=Value("int32"),
        choice_ids=List(List(Value("int32"))),
        choices=List(Value("string")),
        gold=Value("int32"),
        completion=Value("string"),
        answer=Value("string"),
        num_tokens=Value("int32"),
    )
