"""A row's tokens are those of its text: prompt + answer = text, and the loss mask is the answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.data.boundaries import EncodedText, decode, encode_chat, encode_pair
from tasks.data.chat_template import render_chat
from tasks.data.chats import Message, read_chat
from tasks.data.encoder import Encoder
from tasks.data.examples import Example
from tasks.errors import DataError
from tests.made_tokenizers import KINDS, TEMPLATES, make_tokenizer

# WordPiece writes its own spaces; SentencePiece's prefix may stand after each mark, where decoding shows it.
LOSSLESS = (*KINDS[:3], "SentencePiece no prefix")
PLAIN = (
    "{% for m in messages %}{{ 'User: ' if m.role == 'user' else 'Assistant: ' }}{{ m.content }}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)


def marked(tokenizer: Any, row: EncodedText) -> str:
    """Return the row's text with what is learned in brackets; no token may span a bracket."""
    text, shown = "", ""
    ends = [i + 1 for i, flag in enumerate(row.loss_mask) if row.loss_mask[i + 1 : i + 2] != [flag]]
    for end in ends:
        now = decode(tokenizer, row.ids[:end])
        shown += f"⟦{now[len(text) :]}⟧" if row.loss_mask[end - 1] else now[len(text) :]
        text = now
    return shown


def chat_of(*turns: tuple[str, Any] | tuple[str, Any, dict[str, Any]], **columns: Any) -> Any:
    messages = [{"role": role, "content": content, **(more[0] if more else {})} for role, content, *more in turns]
    return read_chat("sub", {"messages": messages, **columns}, "row 0")


def encoded(kind: str, template: str, chat: Any) -> str:
    tokenizer = make_tokenizer(kind, template)
    return marked(tokenizer, encode_chat(tokenizer, render_chat(tokenizer, *chat)))


def squeezed(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ("Assistant: ", "Paris is the capital."),
        ("Assistant:", " Paris is the capital."),
        ("is it", "\n\n12"),
        ("The answer is ", " 1"),
        ("capi", "tal"),
        ("", "Paris"),
    ],
)
def test_a_pair_is_cut_where_its_completion_begins(kind: str, prompt: str, completion: str) -> None:
    tokenizer = make_tokenizer(kind)
    same = squeezed if kind == "WordPiece" else str
    shown = marked(tokenizer, encode_pair(tokenizer, prompt, completion))
    assert same(shown) == same(f"{prompt}⟦{completion}</s>⟧")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("framed", ["$A", "<s> $A", "<s> $A </s>", "$A </s>"])
@pytest.mark.parametrize("prompt", ["Answer:", "<s>Answer:"])
@pytest.mark.parametrize("completion", [" Paris", " Paris</s>"])
def test_a_pair_has_one_begin_and_one_end(kind: str, framed: str, prompt: str, completion: str) -> None:
    tokenizer = make_tokenizer(kind, framed=framed)
    row = encode_pair(tokenizer, prompt, completion)
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert row.ids.count(begin) == int("<s>" in framed + prompt)
    assert begin not in row.ids[1:]
    assert row.ids.index(end) == len(row.ids) - 1
    assert row.loss_mask[-1] == 1


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("answer", ["Paris is the capital.", "\n\nParis", " Paris", "12"])
def test_no_answer_leaks_into_a_prompt_that_ends_in_a_space(kind: str, answer: str) -> None:
    shown = encoded(
        kind, PLAIN, chat_of(("user", "capital?"), ("assistant", "one"), ("user", "?"), ("assistant", answer))
    )
    assert shown == f"User: capital?\nAssistant: ⟦one⟧\nUser: ?\nAssistant: ⟦{answer}</s>⟧"


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("after", ["", "{{ '\n' }}", "{{ '###' }}"], ids=["nothing", "a line end", "a text"])
def test_a_template_without_an_end_gets_one(kind: str, after: str) -> None:
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}" + after + "{% endfor %}"
    shown = encoded(kind, template, chat_of(("user", "hi"), ("assistant", "yo")))
    assert shown.removesuffix("</s>⟧").removesuffix("###").endswith("yo")
    assert shown.endswith("</s>⟧")


def test_a_chat_that_nothing_ends_is_refused_with_what_to_add() -> None:
    tokenizer = make_tokenizer(KINDS[0], "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}")
    tokenizer.eos_token = None
    rendered = render_chat(tokenizer, *chat_of(("user", "hi"), ("assistant", "yo")))
    with pytest.raises(ValueError, match=r"add \{\{ eos_token \}\} there"):
        encode_chat(tokenizer, rendered)


CLOSED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% else %}CLOSING{% endif %}"
)


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("closing", ["{{ eos_token }}", "<|eot_id|>", "That was all.", "</chat>\n"])
def test_what_closes_the_whole_chat_ends_no_turn(kind: str, closing: str) -> None:
    turn, ask = "⟦yo<|im_end|>⟧", "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    shown = encoded(kind, CLOSED.replace("CLOSING", closing), chat_of(*[("user", "hi"), ("assistant", "yo")] * 2))
    assert shown == f"{ask}{turn}\n{ask}{turn}"


def test_a_wrong_choice_of_unknown_characters_is_refused(tmp_path: Path) -> None:
    make_tokenizer("WordPiece").save_pretrained(tmp_path)
    encoder = Encoder(str(tmp_path), 999, trust_remote_code=False)
    row = encoder.encode(Example("The capital is", " Paris", "Paris", (" Paris", " 日本")))
    with pytest.raises(ValueError, match="a choice with characters that the tokenizer does not know: ' 日本'"):
        encoder.check(row)


def test_a_system_prompt_beside_messages_is_used() -> None:
    turns = [("user", "hi"), ("assistant", "yo")]
    beside, within = chat_of(*turns, system="Be kind."), chat_of(("system", "Be kind."), *turns)
    assert beside == within == chat_of(("system", "Be kind."), *turns, system="Be kind.")


@pytest.mark.parametrize("column", ["documents", "images", "video", "audios"])
def test_a_column_beside_messages_that_is_lost_is_refused(column: str) -> None:
    with pytest.raises((DataError, ValueError), match=column):
        encoded(KINDS[0], "chatml", chat_of(("user", "hi"), ("assistant", "yo"), **{column: [{"text": "d"}]}))


def test_a_template_that_shows_the_last_turn_alone_is_refused() -> None:
    last = "Q: {{ (messages | selectattr('role', 'equalto', 'user') | list)[-1].content }}\nA: " + (
        "{% if messages[-1].role == 'assistant' %}{{ messages[-1].content }}{{ eos_token }}{% endif %}"
    )
    with pytest.raises(ValueError, match=r"leaves out|rewrites earlier turns"):
        encoded(KINDS[0], last, chat_of(*[("user", "yo"), ("assistant", "yo")] * 2))


def test_an_earlier_turn_of_unknown_characters_is_refused(tmp_path: Path) -> None:
    make_tokenizer("WordPiece", "chatml").save_pretrained(tmp_path)
    encoder = Encoder(str(tmp_path), 999, trust_remote_code=False)
    messages, _ = chat_of(("user", "hi"), ("assistant", "日本"), ("user", "hi"), ("assistant", "yo"))
    row = encoder.encode(Example("", "yo", "yo", messages=messages))
    with pytest.raises(ValueError, match="does not know"):
        encoder.check(row)


TWO_TURNS = chat_of(("user", "hi"), ("assistant", "yo"), ("user", "1+1?"), ("assistant", "2"))
FAMILIES = {
    "chatml": "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n⟦yo<|im_end|>⟧\n"
    "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n⟦2<|im_end|>⟧",
    "llama3": "<s><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n⟦yo<|eot_id|>⟧"
    "<|start_header_id|>user<|end_header_id|>\n\n1+1?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n⟦2<|eot_id|>⟧",
    "gemma": "<s><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n⟦yo<end_of_turn>⟧\n"
    "<start_of_turn>user\n1+1?<end_of_turn>\n<start_of_turn>model\n⟦2<end_of_turn>⟧",
    "mistral": "<s>[INST] hi[/INST]⟦ yo</s>⟧[INST] 1+1?[/INST]⟦ 2</s>⟧",
    # Thoughts of turns before the last question are not shown again; a last turn without one has an empty thought.
    "qwen3": "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n⟦yo<|im_end|>⟧\n"
    "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n⟦<think>\n\n</think>\n\n2<|im_end|>⟧",
    "plain": "<s>User:\nhi\n\nAssistant:\n⟦yo</s>⟧\n\nUser:\n1+1?\n\nAssistant:\n⟦2</s>⟧",
    "deepseek": "<s><｜User｜>hi<｜Assistant｜>⟦yo</s>⟧<｜User｜>1+1?<｜Assistant｜><think>\n⟦\n</think>\n\n2</s>⟧",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_learns_the_assistants_turns(family: str, kind: str) -> None:
    assert set(FAMILIES) == set(TEMPLATES)
    same = str if kind in LOSSLESS else squeezed
    assert same(encoded(kind, family, TWO_TURNS)) == same(FAMILIES[family])


THOUGHT = chat_of(
    ("user", "hi"),
    ("assistant", "yo", {"reasoning_content": "greet"}),
    ("user", "1+1?"),
    ("assistant", "2", {"reasoning_content": "add"}),
)


@pytest.mark.parametrize(
    ("family", "answer"),
    [("qwen3", "⟦<think>\nadd\n</think>\n\n2<|im_end|>⟧"), ("deepseek", "<think>\n⟦add\n</think>\n\n2</s>⟧")],
)
@pytest.mark.parametrize("inline", [False, True])
def test_the_last_turn_learns_its_thought(family: str, answer: str, inline: bool) -> None:
    turns = [(m.role, m.content, dict(m.extra)) for m in THOUGHT[0]]
    if inline:
        turns = [(r, f"<think>{x['reasoning_content']}</think>{c}" if x else c, {}) for r, c, x in turns]
    tokenizer = make_tokenizer(KINDS[1], family)
    row = encode_chat(tokenizer, render_chat(tokenizer, *chat_of(*turns)))
    assert squeezed(marked(tokenizer, row)).endswith(squeezed(answer))
    assert row.notes == ("the chat template leaves out the reasoning of earlier turns",)


@pytest.mark.parametrize("family", ["chatml", "llama3", "gemma", "mistral"])
def test_a_thought_that_the_template_drops_is_refused(family: str) -> None:
    with pytest.raises(ValueError, match="leaves out the reasoning of the answer: 'add'"):
        encoded(KINDS[1], family, THOUGHT)


STRIPS = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def test_content_that_the_template_drops_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves out the reasoning of the answer: 'hm'"):
        encoded(KINDS[1], STRIPS, chat_of(("user", "q"), ("assistant", "<think>hm</think>yo")))
    last_words = STRIPS.replace("</think>", " ")
    with pytest.raises(ValueError, match=r"leaves out the content of messages\[0\]: 'a question'"):
        encoded(KINDS[1], last_words, chat_of(("user", "a question"), ("assistant", "yo")))


CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
CALLS = (("user", "warm?"), ("assistant", None, {"tool_calls": [CALL]}), ("tool", "30"), ("assistant", "Yes."))


@pytest.mark.parametrize(
    ("family", "call"),
    [
        ("llama3", '⟦{"name": "weather", "parameters": {"city": "Rome"}}<|eot_id|>⟧'),
        ("mistral", '⟦[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Rome"}}]</s>⟧'),
        ("qwen3", '⟦<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call><|im_end|>⟧'),
    ],
)
def test_calls_and_tools_go_through_the_template(family: str, call: str) -> None:
    shown = encoded(KINDS[1], family, chat_of(*CALLS, tools=TOOLS))
    before, found, after = shown.partition(call)
    assert found
    assert '"parameters"' in before
    assert "30" in after.rpartition("⟦")[0]
    assert "Yes." in after.rpartition("⟦")[2]


def test_arguments_are_text_where_the_template_wants_text() -> None:
    assert 'weather\n```json\n{"city": "Rome"}\n```' in encoded(KINDS[1], "deepseek", chat_of(*CALLS))


@pytest.mark.parametrize(
    ("chat", "cause"),
    [
        (chat_of(*CALLS), "tool_calls, which the chat template cannot render"),
        (chat_of(("user", "hi"), ("assistant", "yo"), tools=TOOLS), "tools, which the chat template leaves out"),
        (
            chat_of(("user", "hi"), ("assistant", "yo", {"mood": "glad"})),
            "mood in the messages, which the chat template",
        ),
        (chat_of(("user", "hi"), ("assistant", "yo"), chat_template_kwargs={"date": "today"}), "date, which the chat"),
    ],
)
def test_a_key_that_the_template_leaves_out_is_refused_by_name(chat: Any, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        encoded(KINDS[1], "chatml", chat)


@pytest.mark.parametrize("masked", [{"weight": 0}, {"train": False}])
def test_a_turn_of_no_weight_is_context_alone(masked: dict[str, Any]) -> None:
    turns = chat_of(("user", "hi"), ("assistant", "draft", masked), ("user", "again"), ("assistant", "good"))
    shown = encoded(KINDS[1], "chatml", turns)
    assert "assistant\ndraft<|im_end|>\n" in shown
    assert shown.endswith("⟦good<|im_end|>⟧")


def test_a_row_ends_with_its_last_learned_turn() -> None:
    turns = chat_of(("user", "hi"), ("assistant", "good"), ("user", "again"), ("assistant", "draft", {"weight": 0}))
    assert encoded(KINDS[1], "chatml", turns).endswith("assistant\n⟦good<|im_end|>⟧")


@pytest.mark.parametrize("family", ["chatml", "llama3", "qwen3", "plain"])
def test_a_greeting_is_learned_without_its_header(family: str) -> None:
    greeting = encoded(KINDS[1], family, chat_of(("assistant", "Hello!"), ("user", "hi"), ("assistant", "yo")))
    plain = encoded(KINDS[1], family, chat_of(("user", "hi"), ("assistant", "yo")))
    assert greeting.split("⟦")[1].startswith("Hello!")
    assert greeting.endswith(plain.removeprefix("<s>"))


def test_options_of_the_template_are_used() -> None:
    default = chat_of(("user", "hi"), ("assistant", "yo"), chat_template_kwargs={"enable_thinking": True})
    assert encoded(KINDS[1], "qwen3", default).endswith("⟦<think>\n\n</think>\n\nyo<|im_end|>⟧")
    chat = chat_of(("user", "hi"), ("assistant", "yo"), chat_template_kwargs={"enable_thinking": False})
    assert encoded(KINDS[1], "qwen3", chat).endswith("<think>\n\n</think>\n\n⟦yo<|im_end|>⟧")


def test_empty_columns_say_nothing() -> None:
    chat = chat_of(("user", "hi"), ("assistant", "yo", {"tool_calls": [], "refusal": None}), tools="[]")
    assert chat == chat_of(("user", "hi"), ("assistant", "yo"))


def test_a_row_is_the_same_every_day(tmp_path: Path) -> None:
    template = "{{ strftime_now('%d %b %Y') }}" + TEMPLATES["chatml"]
    make_tokenizer(KINDS[1], template).save_pretrained(str(tmp_path))
    encoder = Encoder(str(tmp_path), 512, trust_remote_code=False)
    row = encoder.encode(Example("q", "a", "a", messages=(Message("user", "q"), Message("assistant", "a"))))
    assert decode(encoder.tokenizer, row["input_ids"]).startswith("26 Jul 2024<|im_start|>")


_WORDS = st.text(alphabet="aPis 1.,-é\n", min_size=1, max_size=12)


@st.composite
def conversations(draw: st.DrawFn) -> Any:
    texts = draw(st.lists(_WORDS.filter(str.strip), min_size=2, max_size=6).filter(lambda t: len(t) % 2 == 0))
    return chat_of(*((role, text) for role, text in zip(["user", "assistant"] * 3, texts, strict=False)))


@given(conversations(), st.sampled_from(LOSSLESS), st.sampled_from([PLAIN, *TEMPLATES]))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_prompt_and_answers_are_the_text_of_any_chat(chat: Any, kind: str, template: str) -> None:
    tokenizer = make_tokenizer(kind, template)
    messages, options = chat
    rendered = render_chat(tokenizer, messages, options)
    row = encode_chat(tokenizer, rendered)
    asked = tokenizer.apply_chat_template(
        [m.for_template for m in messages[:-1]], tokenize=False, add_generation_prompt=True
    )
    assert decode(tokenizer, row.prompt) == asked  # what generation is asked is what the row has before its answer
    assert decode(tokenizer, row.ids).removesuffix("</s>") == rendered.text.removesuffix("</s>")
    learned = [part.partition("⟧")[0] for part in marked(tokenizer, row).split("⟦")[1:]]
    answers = [message.content for message in messages if message.role == "assistant"]
    assert len(learned) == len(answers)
    for text, answer in zip(learned, answers, strict=True):
        assert answer.strip() in text
        assert len(squeezed(text)) <= len(squeezed(answer + "<think></think>" + "<end_of_turn>"))


@given(
    st.tuples(_WORDS.filter(lambda text: text[0] != " "), _WORDS.filter(str.strip)),
    st.sampled_from(LOSSLESS),
    st.sampled_from(["$A", "<s> $A </s>"]),
)
@settings(max_examples=150, deadline=None)
def test_prompt_and_completion_are_the_text_of_any_pair(texts: tuple[str, str], kind: str, framed: str) -> None:
    tokenizer = make_tokenizer(kind, framed=framed)
    row = encode_pair(tokenizer, *texts)
    begin = int("<s>" in framed)
    assert decode(tokenizer, row.prompt[begin:]) == texts[0]
    assert decode(tokenizer, row.ids[begin:]) == f"{texts[0]}{texts[1]}</s>"
    assert sum(row.loss_mask) == len(row.completion)


@pytest.fixture
def encoder(tmp_path: Path) -> Encoder:
    make_tokenizer("byte-level Llama 3", "qwen3").save_pretrained(str(tmp_path))
    return Encoder(str(tmp_path), 512, trust_remote_code=False)


@pytest.mark.parametrize("choices", [(" 1", " 1.5"), (" no", " no one", " yes"), (" 12", " 12345")])
def test_a_choice_that_begins_another_has_an_end(encoder: Encoder, choices: tuple[str, ...]) -> None:
    row = encoder.encode(Example("q", choices[0], choices[0].strip(), choices))
    texts = [decode(encoder.tokenizer, ids) for ids in row["choice_ids"]]
    assert texts == [f"{choice}</s>" for choice in choices]


def test_choices_with_equal_tokens_are_refused(tmp_path: Path) -> None:
    make_tokenizer("WordPiece").save_pretrained(str(tmp_path))
    encoder = Encoder(str(tmp_path), 512, trust_remote_code=False)
    with pytest.raises(ValueError, match="two choices with the same tokens"):
        encoder.encode(Example("q", " 1", "1", (" 1", "  1")))


def test_a_chat_may_have_choices(encoder: Encoder) -> None:
    chat = (Message("user", "q"), Message("assistant", "no"))
    row = encoder.encode(Example("user: q", "no", "no", ("yes", "no"), chat))
    texts = [decode(encoder.tokenizer, ids) for ids in row["choice_ids"]]
    assert texts == ["<think>\n\n</think>\n\nyes", "<think>\n\n</think>\n\nno"]
    assert row["gold"] == 1
    assert row["completion"] == "no"


@pytest.mark.parametrize(
    ("example", "cause"),
    [
        (Example("q", " a</s> b", "b"), "the end token '</s>' within what is learned"),
        (Example("q", "<s> a", "a"), None),
    ],
)
def test_an_end_within_an_answer_is_refused(encoder: Encoder, example: Example, cause: str | None) -> None:
    if cause is None:
        assert encoder.encode(example)["completion"] == "a"  # what a generation is compared with
        return
    with pytest.raises(ValueError, match=cause):
        encoder.encode(example)


def test_a_text_that_the_tokenizer_loses_is_refused() -> None:
    from tokenizers import normalizers

    tokenizer = make_tokenizer("byte-level GPT-2")
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("Paris", "Rome")
    with pytest.raises(ValueError, match=r"what is learned decodes to ' Rome', and the row has ' Paris'"):
        encode_pair(tokenizer, "q", " Paris")
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert encode_pair(tokenizer, "q", " Paris").notes == (
        "the tokenizer changes spaces, case or the form of characters",
    )
