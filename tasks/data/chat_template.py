"""Render a chat with a tokenizer's template, and find the text of each turn of the assistant in it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from tasks.config.schema import SearchConfig
from tasks.data.chats import Message
from tasks.errors import ModelError

THOUGHT_BEGIN, THOUGHT_END = "<think>", "</think>"
# Private-use characters, which no row's text begins or ends with.
_MARK = "\ue0ff-\ue0fe"
# Keys that every template reads or may pass over, and reasoning, which `_left_out` looks for.
_UNCHECKED = ("role", "content", "name", "tool_call_id", "id", "reasoning_content")
_HELP = "remove it from the row, write it into content, or set model.chat_template to one that has a place for it"
_TODAY = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
_DATE = date(2024, 7, 26)
_KNOWN = {path.stem: path for path in sorted(Path(__file__).with_name("chat_templates").glob("*.jinja"))}


def read_template(config: SearchConfig) -> str | None:
    """Return the template that the configuration names: one that comes with msft, or a file; None if it names none.

    Raises:
        ModelError: there is no such file.
    """
    name = config.model.chat_template
    if name is None:
        return None
    path = _KNOWN.get(name) or config.resolve(name)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            name,
            got=f"no chat template {path}: {error}",
            expected=f"a Jinja file, or one of {', '.join(_KNOWN)}",
            fix="fix model.chat_template (paths are relative to the YAML file)",
        ) from error


def with_fixed_date(template: Any) -> Any:
    """Return a template that renders the same text every day: today's date becomes the one that Llama 3 falls back to.

    A search may be resumed on another day, and its tokens are cached by the rows' texts.
    """
    if not isinstance(template, str):
        return template
    return _TODAY.sub(lambda found: repr(_DATE.strftime(found[2])), template)


@dataclass(frozen=True)
class RenderedChat:
    """The text of a chat.

    Attributes:
        text: up to the end of the last turn.
        spans: (start, end) of each turn that is learned, from where the generation prompt ends; the last one is scored.
        is_closed: whether something follows the content of the last turn.
        notes: what of earlier turns the template leaves out.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    is_closed: bool
    notes: tuple[str, ...]

    @property
    def cuts(self) -> list[int]:
        """Return the positions between which the text is alternately without and with a loss."""
        return [position for span in self.spans for position in span]


def render_chat(tokenizer: Any, messages: Sequence[Message], options: Mapping[str, Any]) -> RenderedChat:
    """Return the text of a chat that ends with the assistant's turn.

    The last turn begins where the generation prompt ends, so that what is trained is what generation continues.

    Raises:
        ValueError, TypeError, TemplateError: the template leaves out a part of the chat or a key of its messages, or
            its turns cannot be told apart.
    """
    template = _Template(tokenizer, [m.for_template for m in messages], options)
    full, last = template.render(), len(messages) - 1
    prompt = template.render(last, add_generation_prompt=True)
    text = full.rstrip()
    if not full.startswith(prompt):
        text = _with_thought(full, prompt, messages[last]).rstrip()
    text = template.without_closing(text)
    spans = [template.span(i, full) for i, m in enumerate(messages[:last]) if m.role == "assistant" and m.is_learned]
    spans.append((len(prompt), len(text)))
    if any(end > start for (_, end), (start, _) in pairwise(spans)):  # two turns were found at one place
        raise _rewritten()
    template.check_keys()
    notes = _left_out(messages, text, len(prompt))
    content = messages[last].content.strip()
    return RenderedChat(text, tuple(spans), not (content and text.endswith(content)), notes)


class _Template:
    """A tokenizer's template with the messages of one chat."""

    def __init__(self, tokenizer: Any, messages: list[dict[str, Any]], options: Mapping[str, Any]) -> None:
        self._tokenizer, self._messages, self._options = tokenizer, messages, options
        try:
            self.render()
        except (TypeError, TemplateError):
            if not any("tool_calls" in m for m in messages):
                raise
            # Some templates join the arguments of a call to a text (DeepSeek), others turn an object into JSON.
            self._messages = [_with_text_arguments(message) for message in messages]
            try:
                self.render()
            except (TypeError, TemplateError) as error:
                raise ValueError(f"tool_calls, which the chat template cannot render: {error}") from error

    def render(self, count: int | None = None, *, add_generation_prompt: bool = False) -> str:
        """Return the text of the first `count` messages."""
        return self._render(self._messages[:count], self._options, add_generation_prompt)

    def _render(self, messages: list[dict[str, Any]], options: Mapping[str, Any], generates: bool = False) -> str:
        text: str = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=generates, **options
        )
        return text

    def span(self, index: int, full: str) -> tuple[int, int]:
        """Return the start and end of one turn in the text of the whole chat."""
        before = self.render(index, add_generation_prompt=True) if index else ""  # a greeting answers nothing
        until = self.render(index + 1)
        if before and full.startswith(until.rstrip()) and until.startswith(before):
            return len(before), len(until.rstrip())
        return self._span_by_change(index, full, until, before)

    def _span_by_change(self, index: int, full: str, until: str, before: str) -> tuple[int, int]:
        """Find a turn that is rendered otherwise once others follow (Qwen3), by changing its content alone."""
        changed = [*self._messages]
        changed[index] = _changed(changed[index])
        start, after = _difference(full, self._render(changed, self._options))
        _, tail_length = _difference(until, self._render(changed[: index + 1], self._options))
        tail: str | None = until[len(until) - tail_length :].rstrip()
        header = before.removeprefix(self.render(index)) if index else ""
        found = full.rfind(header, 0, start) if header.strip() and header != before else -1
        end = len(full) - after
        if tail and not full.startswith(tail, end):
            tail = self._turn_end(tail, full[end:])
        if start >= len(full) or tail is None:
            raise _rewritten()
        return (found + len(header) if found >= 0 else start), end + len(tail)

    def without_closing(self, text: str) -> str:
        """Return the text up to the end of the last turn, without what the template puts after the whole chat (Phi-3).

        That is found by a further turn, before which the template does not put it.
        """
        content = (self._messages[-1]["content"] or "").strip()
        at = text.rfind(content) + len(content)
        if not content or at < len(content) or at == len(text):
            return text
        try:
            longer = self._render([*self._messages, {"role": "user", "content": _MARK}], self._options)
        except (TypeError, TemplateError):  # no user's turn may follow
            return text
        before, _, rest = longer[: longer.rfind(_MARK)].rpartition(content)
        if not before or rest.startswith(text[at:]):
            return text
        end = self._turn_end(text[at:], rest)
        return text if end is None else text[:at] + end

    def _turn_end(self, text: str, other: str) -> str | None:
        """Return the line ends and marks that both texts begin with, which end a turn; None if there are none."""
        marks = sorted(map(str, self._tokenizer.added_tokens_decoder.values()), key=len, reverse=True)
        shared = text[: num_shared(text, other)]
        found = re.match(rf"(?:\s|{'|'.join(map(re.escape, marks))})*", shared)
        return found[0].rstrip() if found and found[0] else None

    def check_keys(self) -> None:
        """Check that the template uses each key of the messages and each option.

        A key that changes nothing may still be one that it names, such as `enable_thinking: true`.

        Raises:
            ValueError: it leaves one out.
        """
        source = str(self._tokenizer.chat_template)
        for key in self._options:
            others = {k: v for k, v in self._options.items() if k != key}
            if (key == "tools" or key not in source) and self._changes_nothing(self._messages, others):
                raise ValueError(f"{key}, which the chat template leaves out; {_HELP}")
        for key in dict.fromkeys(key for message in self._messages for key in message):
            without = [{k: v for k, v in message.items() if k != key} for message in self._messages]
            if key not in _UNCHECKED and key not in source and self._changes_nothing(without, self._options):
                raise ValueError(f"{key} in the messages, which the chat template leaves out; {_HELP}")

    def _changes_nothing(self, messages: list[dict[str, Any]], options: Mapping[str, Any]) -> bool:
        shown = self._render(self._messages, self._options, generates=True)
        try:
            return self._render(messages, options, generates=True) == shown
        except (TypeError, TemplateError):
            return False


def _with_text_arguments(message: dict[str, Any]) -> dict[str, Any]:
    calls = message.get("tool_calls", [])
    texts = [
        {**c, "function": {**c["function"], "arguments": json.dumps(c["function"]["arguments"], ensure_ascii=False)}}
        for c in calls
    ]
    return {**message, "tool_calls": texts} if calls else message


def _changed(message: dict[str, Any]) -> dict[str, Any]:
    """Return the message with another content, or with another function called if it has none."""
    if message["content"]:
        return {**message, "content": _MARK}
    first, *others = message["tool_calls"]
    return {**message, "tool_calls": [{**first, "function": {**first["function"], "name": _MARK}}, *others]}


def _difference(text: str, changed: str) -> tuple[int, int]:
    """Return how many characters two texts share at their start, and at their end after that."""
    start = num_shared(text, changed)
    return start, num_shared(text[start:][::-1], changed[start:][::-1])


def num_shared(first: str, second: str) -> int:
    """Return how many characters two texts share at their start."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(first), len(second)))


def _with_thought(full: str, prompt: str, last: Message) -> str:
    """Return the text of a chat whose generation prompt opens a thought that its answer lacks (DeepSeek R1).

    The thought is the message's own, or empty: what is trained has to go on from the generation prompt.
    """
    head, opening, rest = prompt.rpartition(THOUGHT_BEGIN)
    if not opening or rest.strip() or not full.startswith(head):
        raise _rewritten()
    thought, _ = split_thought(last)
    answer = full[len(head) :].lstrip()
    return f"{prompt}{thought}\n{THOUGHT_END}\n\n{answer}"


def _rewritten() -> ValueError:
    return ValueError("the chat template rewrites earlier turns; their tokens cannot be told apart")


def split_thought(message: Message) -> tuple[str, str]:
    """Return the reasoning of a message, given beside or within its content, and the content without it."""
    before, end, after = message.content.rpartition(THOUGHT_END)
    if not end:
        return str(message.extra.get("reasoning_content", "")).strip(), message.content.strip()
    return before.strip().removeprefix(THOUGHT_BEGIN).strip(), after.strip()


def _left_out(messages: Sequence[Message], text: str, answer_start: int) -> tuple[str, ...]:
    """Return what the text lacks of earlier turns' reasoning.

    Raises:
        ValueError: it lacks the content of a turn, or the reasoning of the last one.
    """
    notes = []
    after = 0  # where the turn before ends, so that a turn is not taken for an earlier one that says the same
    for index, message in enumerate(messages):
        is_last = index == len(messages) - 1
        place = text[answer_start:] if is_last else text[:answer_start]
        thought, content = split_thought(message) if message.role == "assistant" else ("", message.content.strip())
        at = place.find(content, 0 if is_last or message.role not in ("user", "assistant") else after)
        after = at + len(content) if message.role in ("user", "assistant") else after
        if at < 0 and message.role != "tool":
            raise ValueError(f"the chat template leaves out the content of messages[{index}]: {content!r:.80}")
        for call in message.extra.get("tool_calls", ()):
            if call["function"]["name"] not in place:
                raise ValueError(f"the chat template leaves out tool_calls of messages[{index}]")
        if thought not in place:
            if is_last:
                raise ValueError(f"the chat template leaves out the reasoning of the answer: {thought!r:.80}; {_HELP}")
            notes.append("the chat template leaves out the reasoning of earlier turns")
    return tuple(dict.fromkeys(notes))
