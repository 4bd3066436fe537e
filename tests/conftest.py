"""Small real parts that the tests share: a model of two layers, tokenized rows, roll-outs, servers and stores.

Starting a process, a server or a store costs seconds, so each is made once: for the worker of pytest-xdist, or for
all workers, in `shared_folder`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

# Its thread takes a variable out of the environment while a request of another thread reads that: KeyError.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

from tasks.config.schema import TrainingConfig
from tasks.config.sub_datasets import SyntheticConfig
from tasks.contracts import BaseModelRef, Mixture, RolloutSpec, ScoreSplit, SubDatasetDraws
from tasks.data.encoder import Encoder
from tasks.data.examples import Example
from tasks.data.tokenization import tokenize_split
from tasks.report.terminal import log_to_terminal
from tests.prefect_home import SHARED

log_to_terminal()
TINY_LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}
SKILLS = ("max", "cmp", "roman")


@pytest.fixture(scope="session", autouse=True)
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of pytest-xdist share."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    os.environ[SHARED] = str(folder)
    return folder


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """The address of a Prefect server that flows of this process use."""
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    with (
        prefect_test_harness(server_startup_timeout=120),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        yield str(PREFECT_API_URL.value())


@pytest.fixture(scope="session")
def prepare_root(shared_folder: Path) -> Callable[[Path], Path]:
    """Return a function that prepares an output root.

    The root has an empty MLflow store, whose creation takes seconds, and shares its cache of base models and tokens
    with the roots of all other tests.
    """
    store, cache = shared_folder / "mlflow.db", shared_folder / "cache"
    with FileLock(shared_folder / "mlflow.lock"):
        if not store.exists():
            from tasks.registry.client import client_of

            client_of(f"sqlite:///{store}")
    cache.mkdir(exist_ok=True)

    def prepare(root: Path) -> Path:
        root.mkdir(parents=True, exist_ok=True)
        shutil.copy(store, root)
        (root / "cache").symlink_to(cache)
        return root

    return prepare


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> BaseModelRef:
    """A Llama of two layers with the quickstart's tokenizer."""
    from tasks.workers.build_base import build_base

    directory = tmp_path_factory.mktemp("models") / "tiny"
    spec = {"source": None, "from_config": TINY_LLAMA, "tokenizer": "characters", "seed": 3}
    spec |= {"trust_remote_code": False, "directory": str(directory)}
    spec_path = directory.parent / "tiny.json"
    spec_path.write_text(json.dumps(spec))
    build_base(spec_path)
    return BaseModelRef(
        directory=str(directory),
        sha256="",
        trust_remote_code=False,
        attn_implementation=None,
        gradient_checkpointing=False,
        lora=None,
        seed=3,
        vocab_size=100,
        max_positions=128,
    )


def examples_of(skill: str, split: str = "train", num_rows: int = 24) -> list[Example]:
    """Return rows of one of the quickstart's skills."""
    from tasks.data.synthetic import synthetic_rows

    settings = SyntheticConfig(skill=skill, unique_rows=num_rows, validation_rows=30, test_rows=30)
    return [Example(**row) for row in synthetic_rows(settings, split, seed=5)]


@pytest.fixture(scope="session")
def encoder(tiny_base: BaseModelRef) -> Encoder:
    return Encoder(tiny_base.directory, 128, trust_remote_code=False)


@pytest.fixture(scope="session")
def tiny_mixture(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    """Two epochs of three sub-datasets of 24 rows: 9 steps of 16 rows, evaluated after 4 and 9."""
    cache = tmp_path_factory.mktemp("tokenised")
    draws = tuple(
        SubDatasetDraws(
            name=skill,
            train=tokenize_split(encoder, skill, "train", examples_of(skill), cache, "error"),
            rows_per_epoch=24,
            cursor=0,
        )
        for skill in SKILLS
    )
    shares = dict.fromkeys(SKILLS, 1 / 3)
    return Mixture(
        round=0,
        draws=draws,
        epoch_rows=72,
        full_epoch_rows=72,
        epochs=2.0,
        num_rows=144,
        num_steps=9,
        evaluation_offsets=(4, 9),
        example_shares=shares,
        token_shares=shares,
    )


@pytest.fixture
def make_rollout(tiny_base: BaseModelRef, tiny_mixture: Mixture, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a roll-out's spec and returns its path."""

    def make(name: str, base: BaseModelRef = tiny_base, mixture: Mixture = tiny_mixture, **training: Any) -> Path:
        method, options = training.pop("method", "msft"), training.pop("options", {})
        directory = tmp_path / name / "rounds" / "000"
        directory.mkdir(parents=True)
        settings = {"learning_rate": 3e-3, "batch_size": 16, "max_length": 128, "threads": 1, "device": "cpu"}
        spec = RolloutSpec(
            search_id="test",
            seed=11,
            method=method,
            options=options,
            mixture=mixture,
            model=base,
            training=TrainingConfig(**(settings | training)),
            start=None,
            start_directory=None,
            first_step=0,
            optimizer="restore",
            decay_steps=100,
            output_directory=str(directory),
        )
        path = directory / "rollout_spec.json"
        path.write_text(spec.model_dump_json())
        return path

    return make


@pytest.fixture
def make_split(encoder: Encoder, tmp_path: Path) -> Callable[..., ScoreSplit]:
    """Return a function that tokenises examples into a split to score."""

    def make(name: str, metric: str, examples: list[Example], max_new_tokens: int = 24) -> ScoreSplit:
        split = tokenize_split(encoder, name, "validation", examples, tmp_path / "splits", "error")
        return ScoreSplit.model_validate(
            {"name": name, "metric": metric, "max_new_tokens": max_new_tokens, "split": split}
        )

    return make
