"""The messages of a chat row, with the keys that a chat template reads or the loss mask depends on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from tasks.data.values import opened
from tasks.errors import DataError

ROLES = ("system", "developer", "user", "assistant", "tool")
# Set apart from what a template reads. A null or an empty list says nothing, as hub data sets fill absent keys.
_OWN = ("role", "content", "weight", "train")
# Other names that transformers takes for the same.
_REASONING = {"reasoning": "reasoning_content", "thinking": "reasoning_content"}


class Message(NamedTuple):
    """A turn of a chat; `extra` has the other keys that a template may read, such as `tool_calls`."""

    role: str
    content: str
    extra: Mapping[str, Any] = MappingProxyType({})
    is_learned: bool = True

    @property
    def for_template(self) -> dict[str, Any]:
        """Return the mapping that a chat template takes; as with OpenAI, a turn of calls alone has null content."""
        content = None if "tool_calls" in self.extra and not self.content else self.content
        return {"role": self.role, "content": content, **self.extra}

    @property
    def text(self) -> str:
        """Return all of the turn's own text: reasoning, content and calls."""
        calls = self.extra.get("tool_calls")
        parts = (self.extra.get("reasoning_content"), self.content, calls and json.dumps(calls, ensure_ascii=False))
        return "\n".join(part for part in parts if part)


def read_chat(name: str, row: Mapping[str, Any], where: str) -> tuple[tuple[Message, ...], dict[str, Any]]:
    """Return the messages up to the last one that is learned, and further arguments of the chat template.

    Args:
        name, where: sub-dataset and row, for messages.

    Raises:
        DataError: the messages are no chat that ends with the assistant, or a key cannot be used.
    """
    found: dict[str, Any] = {}
    for column, read in _COLUMNS.items():
        value = row.get(column)
        if column == "messages" or value not in (None, "", "[]", "{}", [], {}):
            try:
                found[column] = read(value)
            except _Unusable as problem:
                got, expected, fix = problem.args
                raise DataError(name, where, column=column, got=got, expected=expected, fix=fix) from None
    messages = found.pop("messages")
    if (system := found.pop("system", None)) and system != messages[0]:
        messages = (system, *messages)
    return messages, {**found.pop("chat_template_kwargs", {}), **found}


class _Unusable(ValueError):
    """Carries (got, expected, fix)."""


def _messages(value: Any) -> tuple[Message, ...]:
    value = opened(value)
    is_chat = isinstance(value, list) and all(isinstance(m, Mapping) and m.get("role") in ROLES for m in value)
    if not is_chat or not value or value[-1]["role"] != "assistant":
        raise _no_chat(f"messages = {value!r:.120}")
    messages = tuple(_message(m, f"messages[{index}]") for index, m in enumerate(value))
    learned = [index for index, m in enumerate(messages) if m.role == "assistant" and m.is_learned]
    if not learned:
        raise _Unusable(
            "weight 0 or train false on every assistant's message",
            "a message to learn from",
            "remove the row, or give weight 1 to a message",
        )
    return messages[: learned[-1] + 1]


def _no_chat(got: str) -> _Unusable:
    expected = (
        f"a list of {{role, content}} texts, each role one of {', '.join(ROLES)}, that ends with the assistant's, "
        "which is not empty"
    )
    return _Unusable(got, expected, "fix the row")


def _message(given: Mapping[str, Any], where: str) -> Message:
    said = {key: value for key, value in given.items() if value is not None and value != []}
    role, content = said["role"], said.get("content", "" if "tool_calls" in said else None)
    if not isinstance(content, str):
        raise _no_chat(f"{where} = {dict(given)!r:.120}")
    extra = {_REASONING.get(key, key): value for key, value in said.items() if key not in _OWN}
    if "tool_calls" in extra:
        if role != "assistant":
            raise _Unusable(f"{where}.tool_calls of the role {role}", "calls by the assistant", "fix the row")
        extra["tool_calls"] = _calls(extra["tool_calls"], f"{where}.tool_calls")
    if role in ("user", "assistant") and not content.strip() and "tool_calls" not in extra:
        raise _no_chat(f"{where}, an empty turn of the {role}: {dict(given)!r:.120}")
    return Message(role, content, extra, _is_learned(said, where))


def _is_learned(said: Mapping[str, Any], where: str) -> bool:
    weight, train = said.get("weight"), said.get("train")
    if weight not in (None, 0, 1) or isinstance(weight, bool):
        raise _Unusable(f"{where}.weight = {weight!r}", "0 or 1", "set it to 0 (no loss) or 1, or leave it out")
    if not isinstance(train, bool | None):
        raise _Unusable(f"{where}.train = {train!r}", "true or false", "set it to false (no loss), or leave it out")
    if said["role"] != "assistant" and (weight == 1 or train):
        raise _Unusable(
            f"{where} asks for a loss on a turn of the role {said['role']}",
            "weight or train on the assistant's messages",
            "leave it out; the assistant's turns alone are learned",
        )
    return weight != 0 and train is not False


def _calls(value: Any, where: str) -> list[dict[str, Any]]:
    """Return the calls with arguments as objects; OpenAI's API has them as JSON in a text."""
    expected = "a list of calls, each with function: {name, arguments}"
    calls, given = [], _parsed(value)
    for call in given if isinstance(given, list) else [{}]:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise _Unusable(f"{where} = {value!r:.120}", expected, "fix the row")
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except ValueError:
                raise _Unusable(f"{where} with the arguments {arguments!r:.80}", "JSON", "fix the row") from None
        kept = {key: item for key, item in call.items() if item and key not in ("function", "name", "arguments")}
        calls.append({"type": "function", **kept, "function": {**function, "arguments": arguments}})
    return calls


def _tools(value: Any) -> list[dict[str, Any]]:
    tools = _parsed(value)
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise _Unusable(f"tools = {value!r:.120}", "a list of JSON schemas of functions", "fix the row's tools")
    return [_without_nulls(tool) for tool in tools]


def _system(value: Any) -> Message:
    if not isinstance(value, str):
        raise _Unusable(f"system = {value!r:.120}", "a text", "fix the row, or remove the column")
    return Message("system", value)


def _documents(value: Any) -> list[Any]:
    documents = opened(value)
    if not isinstance(documents, list):
        raise _Unusable(f"documents = {value!r:.120}", "a list of objects", "fix the row, or remove the column")
    return documents


def _no_text(value: Any) -> Any:
    raise _Unusable(f"{value!r:.120}", "rows of text alone", "remove the row, or the column if texts do without it")


def _options(value: Any) -> dict[str, Any]:
    options = _parsed(value)
    if not isinstance(options, Mapping):
        raise _Unusable(f"chat_template_kwargs = {value!r:.120}", "an object", "fix the row")
    return {key: option for key, option in options.items() if option is not None}


def _legacy(value: Any) -> Any:
    raise _Unusable(f"{value!r:.120}", "the column tools, and tool_calls in messages", "write them in this form")


def _parsed(value: Any) -> Any:
    """Return the value of a column that may hold JSON as a text."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return None


def _without_nulls(value: Any) -> Any:
    """Return a schema without keys that are null; a columnar format adds those of all rows to each."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


_COLUMNS: Mapping[str, Callable[[Any], Any]] = MappingProxyType(
    {
        "messages": _messages,
        "system": _system,
        "tools": _tools,
        "documents": _documents,
        "chat_template_kwargs": _options,
        "functions": _legacy,
        **dict.fromkeys(("image", "images", "video", "videos", "audio", "audios"), _no_text),
    }
)
