from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks.data.chats import Message
from tasks.data.encoder import Encoder
from tasks.data.examples import Example, fingerprint
from tasks.data.synthetic import character_tokenizer
from tasks.data.tokenization import tokenize_split
from tasks.errors import DataError
from tasks.workers.training.batches import RowStore

CHAT = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
LAST_TURN_ONLY = "{{ messages[-1].role }} {{ messages[-1].content }}{{ eos_token }}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
TURNS = tuple(
    Message(role, content)
    for role, content in (
        ("system", "Be brief."),
        ("user", "hi"),
        ("assistant", "yo"),
        ("user", "and"),
        ("assistant", "bye"),
    )
)
PLAIN = [Example(f"p {i}?", f" {i}", str(i)) for i in range(3)]


def _encoder(directory: Path, template: str | None = CHAT, max_length: int = 128) -> Encoder:
    tokenizer = character_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(str(directory))
    return Encoder(str(directory), max_length, trust_remote_code=False)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return _encoder(tmp_path_factory.mktemp("tokenizer"))


def _text(encoder: Encoder, ids: Sequence[int]) -> str:
    text: str = encoder.tokenizer.decode(ids)
    return text


def _learned_text(encoder: Encoder, row: dict[str, Any]) -> str:
    pairs = zip(row["input_ids"], row["loss_mask"], strict=True)
    return _text(encoder, [token for token, flag in pairs if flag])


def test_the_completion_and_end_of_text_are_learned(encoder: Encoder) -> None:
    row = encoder.encode(Example("max 1 2?", " => 2", "2"))
    assert _text(encoder, row["input_ids"]) == "max 1 2? => 2<eos>"
    assert _learned_text(encoder, row) == " => 2<eos>"
    assert (row["prompt_length"], row["num_tokens"]) == (8, 14)
    assert (row["answer"], row["gold"], row["choice_ids"]) == ("2", -1, [])


def test_choices_lack_end_of_text_and_the_right_one_is_gold(encoder: Encoder) -> None:
    row = encoder.encode(Example("p", " C", "C", choices=(" A", " B", " C")))
    assert [_text(encoder, ids) for ids in row["choice_ids"]] == [" A", " B", " C"]
    assert row["gold"] == 2


def _merging_encoder(directory: Path) -> Encoder:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2, "<eos>": 3}, [("a", "b")]))
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>").save_pretrained(str(directory))
    return Encoder(str(directory), 128, trust_remote_code=False)


@pytest.mark.parametrize(
    ("prompt", "completion", "ids", "loss_mask"),
    [
        ("b", "ab", [1, 2, 3], [0, 1, 1]),  # the joined text's tokens begin with the prompt's
        ("a", "b", [0, 1, 3], [0, 1, 1]),  # joined they would be the one token `ab`
        ("", "ab", [2, 3], [1, 1]),
    ],
)
def test_no_token_spans_prompt_and_completion(
    tmp_path: Path, prompt: str, completion: str, ids: list[int], loss_mask: list[int]
) -> None:
    row = _merging_encoder(tmp_path).encode(Example(prompt, completion, completion))
    assert (row["input_ids"], row["loss_mask"]) == (ids, loss_mask)
    assert row["prompt_length"] == len(prompt)


def test_of_a_chat_only_the_assistant_s_turns_are_learned(encoder: Encoder) -> None:
    row = encoder.encode(Example("unused", "bye", "bye", messages=TURNS))
    rendered = "[system] Be brief.\n[user] hi\n[assistant] yo<eos>\n[user] and\n[assistant] bye<eos>"
    assert _text(encoder, row["input_ids"]) == rendered
    assert _learned_text(encoder, row) == "yo<eos>bye<eos>"


def test_a_chat_is_scored_on_its_last_turn_up_to_end_of_text(encoder: Encoder) -> None:
    row = encoder.encode(Example("unused", "bye", "bye", messages=TURNS))
    assert row["input_ids"][-1] == encoder.tokenizer.eos_token_id
    assert row["loss_mask"][-1] == 1
    assert _text(encoder, row["input_ids"][row["prompt_length"] :]) == "bye<eos>"


@pytest.mark.parametrize(
    ("template", "cause"),
    [
        (LAST_TURN_ONLY, "the chat template rewrites earlier turns"),
        (NO_SYSTEM, "no system turn"),
        (None, "chat_template is not set"),
    ],
)
def test_a_chat_whose_turns_cannot_be_told_apart_is_refused(tmp_path: Path, template: str | None, cause: str) -> None:
    encoder = _encoder(tmp_path / "tokenizer", template)
    chat = Example("unused", "bye", "bye", messages=TURNS)
    with pytest.raises(DataError, match="'chat', train row 1") as caught:
        tokenize_split(encoder, "chat", "train", [PLAIN[0], chat], tmp_path / "cache", "error")
    assert cause in str(caught.value)


def test_a_split_is_described_by_its_rows_tokens_and_texts(encoder: Encoder, tmp_path: Path) -> None:
    split = tokenize_split(encoder, "sub", "train", PLAIN, tmp_path, "error")
    assert (split.num_rows, split.num_tokens) == (3, 3 * len("p 0? 0") + 3)
    assert split.sha256 == fingerprint(PLAIN)


def test_the_worker_reads_the_rows_that_were_encoded(encoder: Encoder, tmp_path: Path) -> None:
    examples = [*PLAIN, Example("q", " long enough to differ in length", "x")]
    store = RowStore(tokenize_split(encoder, "sub", "train", examples, tmp_path, "error"))
    assert len(store) == 4
    for index, example in enumerate(examples):
        wanted = encoder.encode(example)
        ids, loss_mask = store.row(index)
        assert (ids.tolist(), loss_mask.tolist()) == (wanted["input_ids"], wanted["loss_mask"])
        assert store.length(index) == wanted["num_tokens"]


def test_a_split_is_tokenised_once(encoder: Encoder, tmp_path: Path) -> None:
    first = tokenize_split(encoder, "sub", "train", PLAIN, tmp_path, "error")
    before = tmp_path.stat().st_mtime_ns  # each tokenised split stages a directory here
    assert tokenize_split(encoder, "other", "validation", list(PLAIN), tmp_path, "error") == first
    assert tmp_path.stat().st_mtime_ns == before


def test_a_changed_text_length_or_tokenizer_is_another_split(encoder: Encoder, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shorter = _encoder(tmp_path / "shorter", max_length=64)
    other_chat = _encoder(tmp_path / "other", template=LAST_TURN_ONLY)
    directories = {
        tokenize_split(encoder, "sub", "train", PLAIN, cache, "error").directory,
        tokenize_split(encoder, "sub", "train", PLAIN[:2], cache, "error").directory,
        tokenize_split(encoder, "sub", "train", PLAIN, cache, "drop").directory,
        tokenize_split(shorter, "sub", "train", PLAIN, cache, "error").directory,
        tokenize_split(other_chat, "sub", "train", PLAIN, cache, "error").directory,
    }
    assert len(directories) == 5


LONG = Example("p" * 20, " " + "c" * 20, "c")


def test_a_row_that_is_too_long_is_refused_with_its_length(tmp_path: Path) -> None:
    encoder = _encoder(tmp_path / "tokenizer", max_length=20)
    with pytest.raises(DataError, match="'sub', validation row 2") as caught:
        tokenize_split(encoder, "sub", "validation", [*PLAIN[:2], LONG], tmp_path / "cache", "error")
    assert "42 tokens (20 of them prompt)" in str(caught.value)
    assert "at most training.max_length = 20" in str(caught.value)


def test_a_row_of_exactly_the_limit_is_kept(tmp_path: Path) -> None:
    encoder = _encoder(tmp_path / "tokenizer", max_length=42)
    assert tokenize_split(encoder, "sub", "train", [LONG], tmp_path / "cache", "error").num_rows == 1


def test_rows_that_are_too_long_are_dropped_by_choice(tmp_path: Path) -> None:
    encoder = _encoder(tmp_path / "tokenizer", max_length=20)
    split = tokenize_split(encoder, "sub", "train", [PLAIN[0], LONG, PLAIN[1]], tmp_path / "cache", "drop")
    assert split.num_rows == 2
    assert len(RowStore(split)) == 2


def test_a_split_with_no_row_that_fits_is_refused(tmp_path: Path) -> None:
    encoder = _encoder(tmp_path / "tokenizer", max_length=20)
    with pytest.raises(DataError, match=r"every row is longer than training\.max_length"):
        tokenize_split(encoder, "sub", "train", [LONG], tmp_path / "cache", "drop")


def test_what_the_model_does_not_see_is_told_with_its_count(
    encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the tokens come from the cache."""
    examples = [*PLAIN, Example("é?", " 3", "3"), Example("ü?", " 4", "4")]
    for _ in range(2):
        caplog.clear()
        tokenize_split(encoder, "sub", "train", examples, tmp_path, "error")
        assert "sub/train: the tokenizer does not know some characters of the prompt, in 2 of 5 rows" in caplog.text


@pytest.mark.parametrize("remote_code", [False, True])
def test_a_command_loads_a_tokenizer_without_torch(encoder: Encoder, remote_code: bool) -> None:
    """But for code from a hub, which may need it."""
    code = f"""
import sys
from tasks.data.encoder import Encoder
from tasks.runtime.processes import leave_torch_to_workers
leave_torch_to_workers()
Encoder({encoder.tokenizer.name_or_path!r}, 9, trust_remote_code={remote_code})
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"{remote_code}\n", "")
