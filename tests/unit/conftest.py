"""Settings of all unit tests: where `datasets` caches, and how many examples a property is tried on."""

from __future__ import annotations

import atexit
import importlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Set before `datasets` is imported, which reads them once.
_cache = tempfile.mkdtemp(prefix="msft-unit-")
atexit.register(shutil.rmtree, _cache, ignore_errors=True)
os.environ["HF_DATASETS_CACHE"] = _cache
os.environ["HF_HUB_OFFLINE"] = "1"

# Before a commit a few examples, the same ones each time; HYPOTHESIS_PROFILE=nightly tries many that are new each time.
# No deadline: a shared machine stalls now and then.
settings.register_profile("unit", max_examples=15, deadline=None, derandomize=True)
settings.register_profile("nightly", max_examples=500, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "unit"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Hide torch from transformers and datasets where unit tests run alone: they import it where they find it."""
    if all(item.path.is_relative_to(Path(__file__).parent) for item in items):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "torch", None)
            importlib.import_module("transformers.models.auto.tokenization_auto")
        importlib.import_module("datasets").config.TORCH_AVAILABLE = False


@pytest.fixture(autouse=True)
def _no_torch() -> Iterator[None]:
    """Fail a unit test that imports torch; in a process that runs other tests too, it may be there before."""
    before = "torch" in sys.modules
    yield
    assert before or "torch" not in sys.modules


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory as far as preparing looks at it: no worker loads these weights."""
    import numpy as np
    from safetensors.numpy import save_file

    from tasks.data.synthetic import character_tokenizer

    directory = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = character_tokenizer()
    tokenizer.save_pretrained(str(directory))
    config = {"model_type": "llama", "vocab_size": len(tokenizer), "max_position_embeddings": 128}
    (directory / "config.json").write_text(json.dumps(config))
    save_file({"weight": np.zeros(1, np.float32)}, str(directory / "model.safetensors"))
    return directory


@pytest.fixture
def place(tmp_path: Path, base: Path) -> Any:
    """Give a directory in which bad input is written and read; see `bad_input.py`."""
    from tests.unit.bad_input import Place

    return Place(tmp_path, base)
