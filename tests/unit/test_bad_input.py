"""Every kind of bad input names the input, got, expected and the fix; unusual good input works."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tasks.data.synthetic import character_tokenizer
from tasks.errors import DataError, ModelError
from tests.unit import bad_config_cases, bad_file_cases, bad_model_cases, bad_row_cases
from tests.unit.bad_input import Place

CASES = {**bad_config_cases.CASES, **bad_file_cases.CASES, **bad_row_cases.CASES, **bad_model_cases.CASES}
UNUSUAL = {**bad_config_cases.UNUSUAL, **bad_file_cases.UNUSUAL, **bad_model_cases.UNUSUAL}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory as far as preparing looks at it: no worker loads these weights."""
    directory = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = character_tokenizer()
    tokenizer.save_pretrained(str(directory))
    config = {"model_type": "llama", "vocab_size": len(tokenizer), "max_position_embeddings": 128}
    (directory / "config.json").write_text(json.dumps(config))
    save_file({"weight": np.zeros(1, np.float32)}, str(directory / "model.safetensors"))
    return directory


@pytest.fixture
def place(tmp_path: Path, base: Path) -> Place:
    return Place(tmp_path, base)


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_with_its_message(place: Place, name: str) -> None:
    case = CASES[name]
    with pytest.raises(case.error) as caught:
        case.act(place)
    text = str(caught.value)
    labels = ("  got:      ", "  expected: ", "  fix:      ") if case.error in (DataError, ModelError) else ()
    assert [part for part in (*case.parts, *labels) if part not in text] == [], text


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_input_works(place: Place, name: str) -> None:
    act, expected = UNUSUAL[name]
    assert act(place) == expected
