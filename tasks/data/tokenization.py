"""Tokenize a split once; the cache is keyed by content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from tasks.contracts import SplitRef
from tasks.data.examples import Example, fingerprint
from tasks.errors import DataError, ModelError
from tasks.runtime.files import publish_folder

# Part of the cache's key; raised when `encode` returns other columns for the same text.
_ENCODING_VERSION = 2


class Encoder:
    """Encodes examples as token ids with one tokenizer."""

    def __init__(self, directory: str, max_length: int, *, trust_remote_code: bool, num_embeddings: int = 0) -> None:
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
        """Return the columns of a row.

        input_ids: prompt, completion and end-of-text. loss_mask: 1 where a token is learned.
        prompt_length: number of tokens before the completion that is evaluated. choice_ids: tokens of each choice,
        without end-of-text. gold: index of the right choice, -1 without choices. completion: text that is compared in
        an exact match. answer: text with the numeric answer.
        """
        if example.messages:
            ids, loss_mask, prompt_length = self._encode_chat(example)
        else:
            prompt_ids, completion_ids = self._encode_pair(example.prompt, example.completion)
            end = [self.tokenizer.eos_token_id] if self.tokenizer.eos_token_id is not None else []
            ids = prompt_ids + completion_ids + end
            loss_mask = [0] * len(prompt_ids) + [1] * (len(completion_ids) + len(end))
            prompt_length = len(prompt_ids)
        choice_ids = [self._encode_pair(example.prompt, choice)[1] for choice in example.choices]
        return {
            "input_ids": ids,
            "loss_mask": loss_mask,
            "prompt_length": prompt_length,
            "choice_ids": choice_ids,
            "gold": example.choices.index(example.completion) if example.choices else -1,
            "completion": example.completion,
            "answer": example.answer,
            "num_tokens": len(ids),
        }

    def check(self, row: Mapping[str, Any]) -> None:
        """Check that a row can be scored and that the tokenizer knows its completion.

        Raises:
            ValueError: it cannot, or it does not; the text gives the reason.
        """
        completion = row["input_ids"][row["prompt_length"] :]
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
        if unknown != self.tokenizer.eos_token_id and unknown in completion:
            raise ValueError(
                f"a completion with characters that the tokenizer does not know: {row['completion']!r:.80}"
            )

    def _encode_pair(self, prompt: str, completion: str) -> tuple[list[int], list[int]]:
        """Tokenize the joined text and cut it after the prompt's tokens, as lm-evaluation-harness does.

        Prompt and completion are tokenized separately where the joined tokens do not begin with the prompt's.
        """
        prompt_ids: list[int] = self.tokenizer(prompt)["input_ids"]
        joined: list[int] = self.tokenizer(prompt + completion)["input_ids"]
        cut = len(prompt_ids)
        if joined[:cut] == prompt_ids and len(joined) > cut:
            return prompt_ids, joined[cut:]
        return prompt_ids, self.tokenizer(completion, add_special_tokens=False)["input_ids"]

    def _encode_chat(self, example: Example) -> tuple[list[int], list[int], int]:
        """Render the chat with the tokenizer's template; only the assistant's spans are in the loss mask."""
        messages = [{"role": role, "content": content} for role, content in example.messages]
        full: str = self.tokenizer.apply_chat_template(messages, tokenize=False)
        spans = []
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                before = self.tokenizer.apply_chat_template(
                    messages[:index], tokenize=False, add_generation_prompt=True
                )
                until = self.tokenizer.apply_chat_template(messages[: index + 1], tokenize=False).rstrip()
                if not (full.startswith(until) and until.startswith(before)):
                    raise ValueError("the chat template rewrites earlier turns; their tokens cannot be told apart")
                spans.append((len(before), len(until)))
        encoded = self.tokenizer(full, add_special_tokens=False, return_offsets_mapping=True)
        starts = [start for start, _ in encoded["offset_mapping"]]
        loss_mask = [int(any(low <= start < high for low, high in spans)) for start in starts]
        prompt_length = sum(start < spans[-1][0] for start in starts)
        end = max(i for i, flag in enumerate(loss_mask) if flag) + 1
        return encoded["input_ids"][:end], loss_mask[:end], prompt_length


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
    meta: Mapping[str, Any] = json.loads((directory / "split.json").read_text())
    return SplitRef(directory=str(directory.resolve()), **meta)


def _encode_all(
    encoder: Encoder, name: str, split: str, examples: Sequence[Example], on_too_long: str
) -> list[dict[str, Any]]:
    rows = []
    for index, example in enumerate(examples):
        try:
            row = encoder.encode(example)
            encoder.check(row)
        except (ValueError, TypeError, NotImplementedError, TemplateError) as error:
            raise DataError(
                name,
                f"{split} row {index}",
                got=" ".join(str(error).split())[:300],
                expected="a row that the tokenizer (and, for messages, its chat template) can encode",
                fix="fix the row, or set model.tokenizer to one that fits; messages need one with a chat template",
            ) from error
        if row["num_tokens"] > encoder.max_length:
            if on_too_long == "drop":
                continue
            raise DataError(
                name,
                f"{split} row {index}",
                got=f"{row['num_tokens']} tokens ({row['prompt_length']} of them prompt)",
                expected=f"at most training.max_length = {encoder.max_length}",
                fix="raise training.max_length, shorten the row, or --set mixture.on_too_long=drop",
            )
        rows.append(row)
    if not rows:
        raise DataError(
            name,
            split,
            got="every row is longer than training.max_length",
            expected="at least one row that fits",
            fix="raise training.max_length",
        )
    return rows


def _publish(rows: list[dict[str, Any]], directory: Path, texts: str) -> None:
    import datasets

    datasets.disable_progress_bars()
    meta = {"num_rows": len(rows), "num_tokens": sum(row["num_tokens"] for row in rows), "sha256": texts}

    def write(staging: Path) -> None:
        datasets.Dataset.from_list(rows, features=_features()).save_to_disk(str(staging))
        (staging / "split.json").write_text(json.dumps(meta))

    publish_folder(directory, write, "a tokenized split")


def _features() -> Any:
    from datasets import Features, List, Value

    return Features(
        input_ids=List(Value("int32")),
        loss_mask=List(Value("int8")),
        prompt_length=Value("int32"),
        choice_ids=List(List(Value("int32"))),
        gold=Value("int32"),
        completion=Value("string"),
        answer=Value("string"),
        num_tokens=Value("int32"),
    )
