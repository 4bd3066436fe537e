"""Token ids of a text in parts: no token spans two of them, and together they decode to the text."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from tasks.data.chat_template import RenderedChat, num_shared
from tasks.data.token_calls import Asking, result_of

# Texts that a part is tokenized after where the tokens of the joined text span its start: what follows one of them
# gets no space in front, which SentencePiece's tokenizers give to the start of a text.
_LEADS = ("\n", "a", ".", "0", "|")


@dataclass(frozen=True)
class EncodedText:
    """Token ids of a row.

    Attributes:
        ids, loss_mask: all tokens, and 1 where one is learned.
        prompt, completion: the ids before what is scored, and of that, with its end.
        end: the token that ends the completion; None where the tokenizer has none.
        notes: what the text lost.
    """

    ids: list[int]
    loss_mask: list[int]
    prompt: list[int]
    completion: list[int]
    end: int | None
    notes: tuple[str, ...] = ()


def encode_pair(tokenizer: Any, prompt: str, completion: str) -> EncodedText:
    """Return the tokens of a prompt and its completion, with one begin and one end."""
    return result_of(tokenizer, pair_tokens(tokenizer, prompt, completion))


def pair_tokens(tokenizer: Any, prompt: str, completion: str) -> Asking[EncodedText]:
    """Return what `encode_pair` does, as a row of `run_together`."""
    prompt_ids, joined = yield [prompt, prompt + completion]
    begin = _begin(tokenizer)
    parts = [prompt_ids, (yield from _continued(tokenizer, prompt_ids, joined, completion))]
    lead = begin if prompt_ids[: len(begin)] != begin else []
    ends = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id} | {tokenizer.eos_token_id}
    ended = bool(parts[1]) and parts[1][-1] in ends
    end = parts[1][-1] if ended else tokenizer.eos_token_id
    notes = _compare(tokenizer, parts, [prompt, completion], end)
    if not ended and end is not None:
        parts[1] = [*parts[1], end]
    loss_mask = [0] * (len(lead) + len(prompt_ids)) + [1] * len(parts[1])
    return EncodedText([*lead, *prompt_ids, *parts[1]], loss_mask, lead + prompt_ids, parts[1], end, notes)


def encode_chat(tokenizer: Any, chat: RenderedChat) -> EncodedText:
    """Return the tokens of a rendered chat; the template gives its begin.

    Raises:
        ValueError: nothing ends the assistant's last turn, or the tokens are of another text.
    """
    return result_of(tokenizer, chat_tokens(tokenizer, chat))


def chat_tokens(tokenizer: Any, chat: RenderedChat) -> Asking[EncodedText]:
    """Return what `encode_chat` does, as a row of `run_together`."""
    cuts = [0, *chat.cuts]
    texts = [chat.text[start:end] for start, end in pairwise(cuts)]
    parts: list[list[int]] = []
    joined = yield [chat.text[:cut] for cut in cuts[1:]]
    for ids, text in zip(joined, texts, strict=True):
        parts.append((yield from _continued(tokenizer, _flat(parts), ids, text)))
    ended = chat.is_closed and bool(parts[-1]) and parts[-1][-1] in tokenizer.added_tokens_decoder
    end = parts[-1][-1] if ended else tokenizer.eos_token_id
    if end is None:
        raise ValueError(
            f"a chat template with {texts[-1][-20:]!r} at the end of the assistant's turn, which is no token of its "
            "own, so that generation would not end; add {{ eos_token }} there, and set the tokenizer's eos_token"
        )
    notes = _compare(tokenizer, parts, texts, end)
    if not ended:
        parts[-1] = [*parts[-1], end]
    loss_mask = [index % 2 for index, part in enumerate(parts) for _ in part]
    return EncodedText(_flat(parts), loss_mask, _flat(parts[:-1]), parts[-1], end, (*chat.notes, *notes))


def decode(tokenizer: Any, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
    """Return the text of tokens, with the spaces that they have."""
    return _decoded(tokenizer, tuple(ids), skip_special_tokens)


@lru_cache(maxsize=32)  # the choices of a row share its prompt
def _decoded(tokenizer: Any, ids: tuple[int, ...], skip_special_tokens: bool) -> str:
    text: str
    if _decodes_plainly(tokenizer):  # three times as fast as `decode`, which looks for tensors first
        text = tokenizer.backend_tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)
    else:
        text = tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False)
    return text


@lru_cache(maxsize=8)
def _decodes_plainly(tokenizer: Any) -> bool:
    """Return whether a tokenizer decodes as those of the `tokenizers` library do."""
    from transformers import PreTrainedTokenizerFast

    own, plain = type(tokenizer), PreTrainedTokenizerFast
    return all(getattr(own, name, None) is getattr(plain, name, ()) for name in ("decode", "_decode"))


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _flat(parts: Sequence[list[int]]) -> list[int]:
    return [token for part in parts for token in part]


@lru_cache(maxsize=8)
def _begin(tokenizer: Any) -> list[int]:
    """Return the tokens that the tokenizer puts before a text; those that it puts after one are given by the row."""
    for text in _LEADS:
        plain: list[int] = _ids(tokenizer, text)
        framed: list[int] = tokenizer(text)["input_ids"]
        found = [at for at in range(len(framed)) if framed[at : at + len(plain)] == plain]
        if plain and found:
            return framed[: found[0]]
    return []


def _continued(tokenizer: Any, before: list[int], joined: list[int], text: str) -> Asking[list[int]]:
    """Return the tokens of `text` after those of the text before it.

    These are the further tokens of the joined text, as lm-evaluation-harness has them. Where a joined token spans the
    boundary, the text is tokenized by itself, since the model is given the tokens before it and no others.
    """
    if joined[: len(before)] == before and (len(joined) > len(before) or not text):
        return joined[len(before) :]
    alone, *led = yield [text, *_LEADS, *(lead + text for lead in _LEADS)]
    pairs = zip(led[: len(_LEADS)], led[len(_LEADS) :], strict=True)
    nested = [(lead, ids) for lead, ids in pairs if lead and ids[: len(lead)] == lead]
    exact = (pair for pair in nested if decode(tokenizer, pair[1]) == decode(tokenizer, pair[0]) + text)
    lead, ids = next(exact, nested[0] if nested else ([], alone))
    return ids[len(lead) :]


def _compare(tokenizer: Any, parts: Sequence[list[int]], texts: Sequence[str], end: int | None) -> tuple[str, ...]:
    """Compare what each part decodes to with its text; return notes on characters that the tokenizer changes.

    Raises:
        ValueError: a part decodes to another text, or an end stands in the middle of what is learned.
    """
    notes = []
    ids: list[int] = []
    said_before = ""
    for index, (part, text) in enumerate(zip(parts, texts, strict=True)):
        ids += part
        said_all = decode(tokenizer, ids)
        said = said_all[len(said_before) :] if said_all.startswith(said_before) else decode(tokenizer, part)
        said_before = said_all
        is_learned = index % 2 == 1
        if is_learned and end in part[:-1]:
            raise ValueError(f"the end token {decode(tokenizer, [end or 0])!r} within what is learned: {text!r:.80}")
        if said == text:
            continue
        if not is_learned and tokenizer.unk_token_id in part:
            notes.append("the tokenizer does not know some characters of the prompt")
        elif _folded(said) != _folded(text) and tokenizer.unk_token_id not in part:
            what = "what is learned" if is_learned else "the prompt"
            raise ValueError(
                f"{what} decodes to {_where_differ(said, text)}, and the row has {_where_differ(text, said)}"
            )
        elif is_learned or "".join(said.split()) != "".join(text.split()):
            notes.append("the tokenizer changes spaces, case or the form of characters")
    return tuple(dict.fromkeys(notes))


def _where_differ(text: str, other: str) -> str:
    start = max(0, num_shared(text, other) - 20)
    return f"{'…' if start else ''}{text[start : start + 60]!r}"


def _folded(text: str) -> str:
    return "".join(unicodedata.normalize("NFKD", text).casefold().split())
