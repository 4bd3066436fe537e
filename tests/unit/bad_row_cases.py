"""Bad rows, each with what it must be told by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.errors import DataError
from tests.unit.bad_file_cases import GOOD_ROW, TEMPLATE, bad_file
from tests.unit.bad_input import Case

LETTERED = {"prompt": "{q}\n{options}", "completion": " {letter}", "options": {"texts": "o", "right": "{a}"}}


def _row(row: Mapping[str, Any], *parts: str, **sub: Any) -> Case:
    """A row of train after a good one, or alone where a template changes what is good."""
    before = [] if "template" in sub else [GOOD_ROW]
    return bad_file("train.jsonl", [*before, row], f"row {len(before)}", *parts, **sub)


def _turns(*turns: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


CASES = {
    "row: a list": bad_file("train.jsonl", b"[1, 2]\n", "line 1 is no object of columns: [1, 2]"),
    "row: null": bad_file("train.jsonl", b"null\n", "line 1 is no object of columns: None"),
    "row: a number in a list": bad_file("train.json", b"[1]", "item 0 is no object of columns: 1"),
    "row: without columns": _row({}, "the columns {}", "text in prompt and completion"),
    "row: no prompt": _row({"completion": "c"}, "the columns {'completion': 'str'}", "text in prompt"),
    "row: no completion": _row({"prompt": "p", "output": "c"}, "text in completion", "rename the columns, or map them"),
    "row: null prompt": _row({**GOOD_ROW, "prompt": None}, "'prompt': 'NoneType'", "text in prompt"),
    "row: a list as prompt": _row({**GOOD_ROW, "prompt": ["p"]}, "'prompt': 'list'", "text in prompt"),
    "row: a number as completion": _row({**GOOD_ROW, "completion": 5}, "'completion': 'int'", "text in completion"),
    "row: NaN as completion": _row(
        {**GOOD_ROW, "completion": float("nan")}, "'completion': 'float'", "text in completion"
    ),
    "row: empty completion": _row({**GOOD_ROW, "completion": ""}, "an empty completion, so every label is masked"),
    "row: spaces as completion": _row({**GOOD_ROW, "completion": " \t\u00a0"}, "an empty completion"),
    "row: empty answer": _row(
        {**GOOD_ROW, "answer": " ", "choices": [" c", " d"]}, "an empty answer", "fill its column"
    ),
    "row: half a character": bad_file(
        "train.jsonl",
        b'{"prompt": "\\ud83d", "completion": " c"}',
        "row 0",
        "half of a surrogate pair",
        "text that UTF-8 can encode",
    ),
    "row: empty prompt": _row({**GOOD_ROW, "prompt": ""}, "a prompt of no tokens"),
    "row: a character that the tokenizer lacks": _row(
        {**GOOD_ROW, "completion": " é"},
        "a completion with characters that the tokenizer does not know: ' é'",
        "model.tokenizer",
    ),
    "row: longer than the context": _row(
        {**GOOD_ROW, "prompt": "p" * 200}, "203 tokens (200 of them prompt)", "at most training.max_length = 128"
    ),
    "row: a test row longer than the context": bad_file(
        "test.jsonl", [{**GOOD_ROW, "prompt": "p" * 200}], "test row 0", "training.max_length = 128"
    ),
    "row: all longer than the context": Case(
        lambda place: place.read(
            {"mixture": {"on_too_long": "drop"}}, {"train.jsonl": [{**GOOD_ROW, "prompt": "p" * 200}]}
        ),
        DataError,
        ("'sub', train", "every row is longer than training.max_length"),
    ),
    "choices: a text": _row({**GOOD_ROW, "choices": "c"}, "choices 'c'", "a list of two or more texts"),
    "choices: none": _row({**GOOD_ROW, "choices": []}, "choices []", "make it null"),
    "choices: one": _row({**GOOD_ROW, "choices": [" c"]}, "choices [' c']", "a list of two or more texts"),
    "choices: lists": _row({**GOOD_ROW, "choices": [[" c"], " d"]}, "choices [[' c'], ' d']"),
    "choices: without the answer": _row({**GOOD_ROW, "choices": ["A", "B"]}, "choices ['A', 'B'] with the answer 'c'"),
    "choices: the answer twice": _row({**GOOD_ROW, "choices": ["c", "c", "d"]}, "the answer exactly once among them"),
    "messages: empty": _row(_turns(), "messages = []", "ends with the assistant's"),
    "messages: a text": _row({"messages": "hi"}, "messages = 'hi'", "a list of {role, content} texts"),
    "messages: no answer": _row(_turns(("user", "hi")), "ends with the assistant's"),
    "messages: an empty turn in the middle": _row(
        _turns(("user", "a"), ("assistant", ""), ("user", "b"), ("assistant", "c")),
        "messages[1], an empty turn of the assistant",
    ),
    "messages: half a weight": _row(
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0.5}]},
        "messages[1].weight = 0.5",
        "set it to 0 (no loss) or 1",
    ),
    "messages: nothing to learn": _row(
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "train": False}]},
        "weight 0 or train false on every assistant's message",
    ),
    "messages: the user's turn to learn": _row(
        {"messages": [{"role": "user", "content": "a", "train": True}, {"role": "assistant", "content": "b"}]},
        "messages[0] asks for a loss on a turn of the role user",
    ),
    "messages: tools that are no list": _row(
        {**_turns(("user", "a"), ("assistant", "b")), "tools": "weather"}, "tools = 'weather'", "a list of JSON schemas"
    ),
    "messages: calls without a name": _row(
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [{"function": {}}]}]},
        "messages[1].tool_calls = [{'function': {}}]",
        "a list of calls, each with function: {name, arguments}",
    ),
    "messages: options of the template that are none": _row(
        {**_turns(("user", "a"), ("assistant", "b")), "chat_template_kwargs": "x"}, "chat_template_kwargs = 'x'"
    ),
    "messages: the calls of an older form": _row(
        {**_turns(("user", "a"), ("assistant", "b")), "functions": [{"name": "f"}]},
        "[{'name': 'f'}]",
        "the column tools",
    ),
    "messages: empty answer": _row(_turns(("user", "hi"), ("assistant", " ")), "which is not empty"),
    "messages: unknown role": _row(
        _turns(("human", "hi"), ("assistant", "yo")), "each role one of system, developer, user, assistant, tool"
    ),
    "messages: content in parts": _row(
        _turns(("user", [{"text": "hi"}]), ("assistant", "yo")), "a list of {role, content} texts"
    ),
    "messages: tokenizer without chat template": _row(
        _turns(("user", "hi"), ("assistant", "yo")), "chat_template is not set", "set model.tokenizer"
    ),
    "template: unknown column": _row(
        {"question": "x", "a": "y"}, "KeyError: 'q'; columns with a value: question, a", template=TEMPLATE
    ),
    "template: null column": _row({"q": "x", "a": None}, "KeyError: 'a'; columns with a value: q", template=TEMPLATE),
    "template: NaN column": _row(
        {"q": "x", "a": float("nan")}, "KeyError: 'a'; columns with a value: q", template=TEMPLATE
    ),
    "template: text as a number": _row({"q": "x", "a": "y"}, "ValueError", template={**TEMPLATE, "prompt": "{q:d}"}),
    "template: a list": _row(
        {"q": ["x"], "a": "y"}, "column:   q", "TypeError: a list, not a text: ['x']", template=TEMPLATE
    ),
    "template: an object": _row({"q": "x", "a": {"b": 1}}, "TypeError: an object, not a text", template=TEMPLATE),
    "template: an attribute": _row(
        {"q": {"items": "x"}, "a": "y"},
        "AttributeError: {q.items}; write a part of an object as {column[part]}",
        template={**TEMPLATE, "prompt": "{q.items}"},
    ),
    "template: a list in a format": _row(
        {"q": ["x"], "a": "y"}, "TypeError: a list", template={**TEMPLATE, "prompt": "{q!s}"}
    ),
    "template: infinity": _row(
        {"q": float("inf"), "a": "y"}, "ValueError: inf is not a finite number", template=TEMPLATE
    ),
    "row: an answer that is a list": _row({**GOOD_ROW, "answer": ["c"]}, "column:   answer", "a list, not a text"),
    "row: an infinite choice": _row({**GOOD_ROW, "choices": ["c", float("inf")]}, "choices ['c', inf]"),
    "row: a key twice": bad_file(
        "train.jsonl",
        b'{"prompt": "p", "completion": " c", "prompt": "q"}\n',
        "train.jsonl row 0, line 1",
        "the key 'prompt' stands twice in one object",
    ),
    "template: choices in no list": _row(
        {"q": "x", "a": "y"}, "choices 'x'", "a list of two or more", template={**TEMPLATE, "choices": "q"}
    ),
    "options: no list": _row({"q": "x", "o": "ab", "a": "A"}, "TypeError: o holds no list: 'ab'", template=LETTERED),
    "options: a label that is none of theirs": _row(
        {"q": "x", "o": ["y", "z"], "a": "C"},
        "options ['y', 'z'] with the labels ['A', 'B']; 'C' is right",
        template=LETTERED,
    ),
    "options: more than there are letters": _row(
        {"q": "x", "o": list(range(27)), "a": "A"}, "ValueError: options ['0', '1'", template=LETTERED
    ),
    "options: none": _row({"q": "x", "o": [], "a": "A"}, "ValueError: options []", template=LETTERED),
    "options: one alone": _row({"q": "x", "o": ["y"], "a": "A"}, "a list of two or more texts", template=LETTERED),
}
