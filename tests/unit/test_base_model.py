"""The hash of a base model changes with everything that a run would load from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.data.base_model import _hash_model

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@pytest.mark.parametrize("changed", FILES)
def test_a_changed_file_of_the_model_changes_its_hash(tmp_path: Path, changed: str) -> None:
    for name in FILES:
        (tmp_path / name).write_text("{}")
    before = _hash_model(tmp_path)
    (tmp_path / "README.md").write_text("what is not loaded does not count")
    assert _hash_model(tmp_path) == before
    (tmp_path / changed).write_text('{"model_type": "llama"}')
    assert _hash_model(tmp_path) != before
