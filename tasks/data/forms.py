"""Known forms of rows that need no template of one's own: Alpaca, ShareGPT, TRL's, preferences, options, texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tasks.config.sub_datasets import TemplateConfig
from tasks.data.columns import PROMPT_COLUMNS, Rows, guess_template, is_id_name, is_text, open_lists
from tasks.data.options import options_template
from tasks.data.values import opened

# Rows that a form is recognized by.
SAMPLE = 1000
Row = Mapping[str, Any]
_SPEAKERS = {
    **dict.fromkeys(("human", "user", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bot", "model", "bing", "bard", "assistant"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "function_response"), "tool"),
    "system": "system",
}
_ALPACA = (
    ("system", "system_prompt"),
    ("instruction", "question"),
    ("input", "context"),
    ("output", "response", "answer"),
)
# Of no use to the model, beside a text.
_ABOUT_TEXTS = (
    "url",
    "source",
    "timestamp",
    "date",
    "meta",
    "metadata",
    "title",
    "language",
    "lang",
    "token_count",
    "score",
)


@dataclass(frozen=True)
class Form:
    """One form of rows.

    Attributes:
        words: its name and columns, for people.
        convert: makes of a row one with prompt and completion, or messages; None where `template` does.
        remark: what is not used, or guessed; empty if nothing is.
        is_text: the row is one text, of which all but the first word is learned.
    """

    words: str
    convert: Callable[[Row], Row] | None = None
    template: Mapping[str, Any] | None = None
    remark: str = ""
    is_text: bool = False

    @property
    def warning(self) -> str:
        """Return what a person should know who wrote no template; empty where the rows need none."""
        if self.template is not None:
            return f"rows are read as {self.words}, with template: {dict(self.template)}"
        return f"rows are read as {self.words}: {self.remark}" if self.remark else ""

    @cached_property
    def template_config(self) -> TemplateConfig | None:
        """Return the template as in a configuration."""
        return TemplateConfig.model_validate(self.template) if self.template is not None else None


_OPTIONS = (
    "prompt: '{question}\\n{options}\\nAnswer:', completion: ' {letter}', options: {texts: choices, right: '{answer}'}"
)
# Columns of each form, and its template where the columns alone do not give one.
_NEAREST = {
    "prompt and completion": ({"prompt", "completion"}, ""),
    "messages: [{role, content}]": ({"messages", "dialog", "dialogue", "turns", "history", "chat"}, ""),
    "ShareGPT's conversations: [{from, value}]": ({"conversations", "conversation"}, ""),
    "preferences (prompt, chosen, rejected)": ({"chosen", "rejected"}, ""),
    "Alpaca (instruction, input, output)": ({"instruction", "output"}, ""),
    "a question with options": ({"choices", "options", "answerkey", "a", "b", "c", "d", "option_a"}, _OPTIONS),
}
PLAIN = Form("prompt and completion")
CHAT = Form("messages")


def form_of(sample: Rows) -> Form | None:
    """Return the form of the rows of a file; None if it is none of the known ones."""
    sample = open_lists(sample)
    columns = {column for row in sample for column in row}
    if any(row.get("messages") is not None for row in sample):
        return CHAT
    if _all(sample, "prompt", list) and _all(sample, "completion", list):
        return Form("prompt and completion as messages (TRL's conversational form)", _of_message_pair)
    if any(isinstance(row.get("prompt"), str) and isinstance(row.get("completion"), str) for row in sample):
        is_marked = any(isinstance(row.get("label"), bool) for row in sample)
        return Form("prompt, completion and label (unpaired preferences)", _of_marked) if is_marked else PLAIN
    if (
        turns := next((name for name in ("conversations", "conversation") if _all(sample, name, list)), None)
    ) is not None:
        return Form(f"{turns} with from and value (ShareGPT)", lambda row: _of_turns(row, turns))
    if {"chosen", "rejected"} <= columns:
        return _preference(sample)
    if (found := options_template(sample)) is not None:
        template, remark = found
        return Form("a question with options", template=template, remark=remark)
    return _alpaca(sample) or _text(sample)


def nearest_form(row: Row) -> str:
    """Return in words the form that a row is nearest to, and the template to write for it."""
    columns = {column.lower() for column in row}
    name, (_, template) = max(_NEAREST.items(), key=lambda form: len(form[1][0] & columns))
    if not template:
        guessed = guess_template([row])
        parts = guessed[0] if guessed is not None else {"prompt": "…{column}…", "completion": " {column}"}
        template = ", ".join(f"{key}: {text!r}" for key, text in parts.items())
    return f"rename the columns, or map them with template: {{{template}}}; the nearest form is {name}"


def _all(sample: Rows, column: str, kind: type) -> bool:
    return all(isinstance(row.get(column), kind) and row[column] for row in sample)


def _of_marked(row: Row) -> Row:
    if row.get("label") is False:
        raise ValueError("label: false, a completion that is not wanted")
    return row


def _of_message_pair(row: Row) -> Row:
    """Return a chat of which the completion alone is learned."""
    if not all(isinstance(row.get(key), list) for key in ("prompt", "completion")):
        return row
    given = [
        {**message, "train": False} if isinstance(message, dict) and message.get("role") == "assistant" else message
        for message in row["prompt"]
    ]
    rest = {column: value for column, value in row.items() if column not in ("prompt", "completion")}
    return {**rest, "messages": [*given, *row["completion"]]}


def _of_turns(row: Row, column: str) -> Row:
    turns = opened(row.get(column))
    if not isinstance(turns, list):
        return row
    rest = {name: value for name, value in row.items() if name not in (column, "system")}
    system = [{"role": "system", "content": row["system"]}] if is_text(row.get("system")) else []
    return {**rest, "messages": [*system, *(_message(turn) for turn in turns)]}


def _message(turn: Any) -> Any:
    if not isinstance(turn, dict) or not {"from", "value"} & turn.keys():
        return turn
    rest = {key: value for key, value in turn.items() if key not in ("from", "role", "value")}
    speaker = turn.get("from", turn.get("role"))
    return {"role": _SPEAKERS.get(str(speaker).lower(), speaker), "content": turn.get("value"), **rest}


def _preference(sample: Rows) -> Form | None:
    words = "prompt, chosen and rejected (preferences)"
    remark = "chosen is the completion; rejected is not used"
    if _all(sample, "chosen", list):
        return Form(words, _of_chosen_messages, remark=remark)
    if _all(sample, "chosen", str) and _all(sample, "prompt", str):
        return Form(words, lambda row: _pair(row, row.get("prompt"), row.get("chosen")), remark=remark)
    if _all(sample, "chosen", str) and _all(sample, "rejected", str):
        return Form("chosen and rejected, which begin with their prompt (preferences)", _of_chosen_text, remark=remark)
    return None


def _of_chosen_text(row: Row) -> Row:
    """Return what both answers begin with, up to the last turn or white space, as the prompt."""
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if not (isinstance(chosen, str) and isinstance(rejected, str)):
        return row
    pairs = enumerate(zip(chosen, rejected, strict=False))
    shared = chosen[: next((index for index, (a, b) in pairs if a != b), min(len(chosen), len(rejected)))]
    turn = shared.rfind("Assistant:")
    cut = turn + len("Assistant:") if turn >= 0 else max(shared.rfind(" "), shared.rfind("\n"), 0)
    return {"prompt": chosen[:cut], "completion": chosen[cut:]}


def _of_chosen_messages(row: Row) -> Row:
    """Return the chat that was chosen; it holds the prompt, or follows it."""
    chosen, prompt = row.get("chosen"), row.get("prompt")
    if not isinstance(chosen, list):
        return row
    if isinstance(prompt, list):
        return _of_message_pair({**row, "completion": chosen})
    is_whole = len(chosen) > 1
    asked = [] if is_whole or not is_text(prompt) else [{"role": "user", "content": prompt}]
    earlier = [{**m, "train": False} if m.get("role") == "assistant" else m for m in chosen[:-1] if isinstance(m, dict)]
    return {"messages": [*asked, *earlier, *chosen[-1:]]}


def _pair(row: Row, prompt: Any, completion: Any) -> Row:
    """Return a row of prompt and completion, with a space between them where neither has white space there."""
    if not (is_text(prompt) and is_text(completion)):
        return row
    if not (prompt[-1:].isspace() or completion[:1].isspace()):
        completion = f" {completion}"
    return {**row, "prompt": prompt, "completion": completion}


def _alpaca(sample: Rows) -> Form | None:
    """Return the form of an instruction, an input that may be empty, and an output."""
    names = {name.lower(): name for row in sample for name in row}
    system, asked, given, said = (next((names[n] for n in column if n in names), None) for column in _ALPACA)
    if asked is None or said is None or any(row.get("history") for row in sample):
        return None
    if not all(is_text(row.get(asked)) and is_text(row.get(said)) for row in sample):
        return None
    optional = [name for name in (system, given) if name is not None]
    if not all(isinstance(row.get(name), str | None) for row in sample for name in optional):
        return None
    columns = [name for name in (system, asked, given) if name is not None]
    if asked.lower() == "question" and (
        all(is_text(row.get(name)) for row in sample for name in optional)
        or any(name in PROMPT_COLUMNS and names[name] not in columns for name in names)
    ):
        return None  # `msft init` writes the template, which can hold all that is asked
    words = f"{', '.join((*columns, said))} (Alpaca)"
    if not all(is_text(row.get(name)) for row in sample for name in optional):
        return Form(words, lambda row: _instructed(row, columns, asked, said), remark="an empty line is left out")
    lines = "\n".join(f"{{{name}}}" for name in columns)
    template = {"prompt": f"{lines}\nAnswer:", "completion": f" {{{said}}}"}
    return Form(words, template=template, remark="the wording of the template")


def _instructed(row: Row, columns: Sequence[str], asked: str, said: str) -> Row:
    if not (is_text(row.get(asked)) and is_text(row.get(said))):
        return row
    lines = [row[name] for name in columns if is_text(row.get(name))]
    return {"prompt": "\n".join([*lines, "Answer:"]), "completion": f" {row[said]}"}


def _text(sample: Rows) -> Form | None:
    """Return the form of texts without a prompt: a column `text`, and beside it nothing to learn from."""
    others = {name for row in sample for name in row if name != "text" and row[name] is not None}
    # Not one that is constant: the rows may be sorted by their label.
    telling = [name for name in others if name.lower() not in _ABOUT_TEXTS and not is_id_name(name)]
    if telling or not _all(sample, "text", str):
        return None
    return Form("text (all of it is learned but the first word)", _of_text, is_text=True)


def _of_text(row: Row) -> Row:
    """Return the first word as the prompt, since nothing comes before it that it could be predicted from."""
    text = row.get("text")
    if not isinstance(text, str):
        return row
    first = next(iter(text.split()), "")
    end = text.find(first) + len(first)
    return {"prompt": text[:end], "completion": text[end:]}
