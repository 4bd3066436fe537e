"""`msft inspect`: rows as the model sees them, what is wrong with them, and what is dropped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from flows.cli import app
from tasks.config.loading import load_config
from tasks.data.boundaries import decode
from tasks.data.inspection import _texts, inspect_rows
from tasks.errors import ConfigError
from tests.made_tokenizers import KINDS, make_tokenizer

ROWS = [
    {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2 & <b>"}]},
    {"messages": [{"role": "user", "content": "é?"}, {"role": "assistant", "content": "yo"}]},
    {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "no é"}]},
    {"messages": [{"role": "user", "content": "long " * 40}, {"role": "assistant", "content": "so"}]},
    {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "1"}], "choices": ["1", "12"]},
]


@pytest.fixture
def config(base: Path, tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "validation", "test"):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS[: 5 if split == "train" else 1])
        (data / f"{split}.jsonl").write_text(text)
    raw = {
        "name": "seen",
        "output_root": str(tmp_path / "out"),
        "model": {"source": str(base), "chat_template": "plain"},
        "mixture": {"sub_datasets": [{"name": "chat", "path": "data"}], "on_too_long": "drop"},
        "training": {"max_length": 64},
        "search": {"max_epochs": 1},
    }
    path = tmp_path / "seen.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["inspect", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.stdout


def lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_a_row_is_its_texts_its_tokens_and_its_mask(config: Path) -> None:
    row, *others = lines(run(str(config), "--json"))
    assert [(one["split"], one["row"]) for one in (row, *others)] == [
        *(("train", i) for i in range(5)),
        ("validation", 0),
    ]
    assert (row["sub_dataset"], row["problem"], row["choices"]) == ("chat", "", [])
    assert row["prompt"] == "User:\n1+1?\n\nAssistant:\n"
    assert row["supervised"] == ["2 & <b><eos>"]
    assert "".join(row["tokens"]) == row["prompt"] + row["supervised"][0]
    learned = [token for token, flag in zip(row["tokens"], row["loss_mask"], strict=True) if flag]
    assert "".join(learned) == "2 & <b><eos>"
    assert row["where"].endswith("train.jsonl row 0, line 1")


def test_a_problem_is_told_with_its_row(config: Path) -> None:
    rows = list(inspect_rows(load_config(str(config), []), "chat", "train"))
    assert rows[1].notes == ("the tokenizer does not know some characters of the prompt",)
    assert rows[2].problem == "a completion with characters that the tokenizer does not know: 'no é'"
    assert (rows[2].prompt, rows[2].supervised) == ("user: ?", ("no é",))
    assert rows[3].problem.startswith("dropped: 222 tokens")
    assert [(c.text, "".join(c.tokens), c.is_right) for c in rows[4].choices] == [
        ("1", "1<eos>", True),
        ("12", "12<eos>", False),
    ]


def test_test_rows_are_shown_only_if_asked_for(config: Path) -> None:
    assert {row["split"] for row in lines(run(str(config), "chat", "--json", "--split", "test"))} == {"test"}


def test_a_terminal_brackets_what_is_learned(config: Path) -> None:
    output = run(str(config), "--split", "train", "--limit", "1")
    assert "User:\n1+1?\n\nAssistant:\n⟦2 & <b><eos>⟧" in output
    table = next(line for line in output.splitlines() if line.startswith("chat "))
    assert table.split()[:3] == ["chat", "train", "5"]
    for problem in ("a completion with characters", "dropped: 222 tokens", "does not know some characters"):
        assert problem in output, problem  # the first row of each problem is shown beside the first of all


def test_the_page_escapes_text_and_needs_nothing_beside_it(config: Path, tmp_path: Path) -> None:
    page = tmp_path / "rows.html"
    run(str(config), "--html", str(page), "--limit", "5")
    html = page.read_text()
    assert "<i>2</i><i> </i><i>&amp;</i><i> </i><i>&lt;</i>" in html
    assert "http" not in html.replace("https://", "http")
    assert html.count("<h3>row ") == 6


def test_an_unknown_sub_dataset_names_those_there_are(config: Path) -> None:
    result = CliRunner().invoke(app, ["inspect", str(config), "chart"])
    assert isinstance(result.exception, ConfigError)
    assert "no sub-dataset 'chart'; the mixture has chat" in str(result.exception)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text", ["Paris is the capital.", " an é and a 🙂, two: 🙂🙂", "\n\n  indented\n", "</s>a <s>b"]
)
def test_the_texts_of_tokens_are_the_text(kind: str, text: str) -> None:
    tokenizer = make_tokenizer(kind)
    ids: Sequence[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert "".join(_texts(tokenizer, ids)) == decode(tokenizer, ids)
