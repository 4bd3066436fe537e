"""Where the outputs of frozen layers are kept: one folder for the rows of a split, laid out as for one use."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from tasks.contracts import BaseModelRef, ScoreSplit, SplitRef, Value

TRAIN = "train"  # in place of the metric that scoring lays out rows for


class HiddenStatesSpec(Value):
    """The input of the worker that computes hidden states, of rows as they are trained and as they are scored.

    Attributes:
        directory: the folder of all of them, from `cache_folder`.
    """

    model: BaseModelRef
    trained: tuple[SplitRef, ...]
    scored: tuple[ScoreSplit, ...]
    batch_tokens: int
    threads: int | None
    device: Literal["auto", "cpu"]
    precision: Literal["fp32", "bf16"]
    directory: str


def cache_folder(cache: Path, base: BaseModelRef, computation: str) -> Path:
    """Return the folder of all hidden states of a base model with a cut.

    Args:
        computation: precision, device and all else that may change the last digits.
    """
    text = f"{base.sha256}/{base.trainable_layers}/{base.attn_implementation}/{computation}"
    return cache / "hidden_states" / hashlib.sha256(text.encode()).hexdigest()[:16]


def states_folder(directory: str | Path, split: SplitRef, purpose: str) -> Path:
    """Return the folder of the hidden states of a split's rows, laid out for a metric or for `TRAIN`.

    A tokenized split is named by its content, and so are they.
    """
    return Path(directory, f"{Path(split.directory).name}-{purpose}")
