"""Measure the size of a base model from its files, without loading it, to estimate cost."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from tasks.algorithm.costs import ModelShape
from tasks.config.schema import LoraConfig
from tasks.contracts import BaseModelRef

# Embedding tables and the output projection, on which peft's `all-linear` puts no adapter.
_TABLES = re.compile(r"embed|wte|wpe|lm_head")


@dataclass(frozen=True)
class ModelSize:
    """A model's shape, its number of parameters including adapters, and how many of them are trained."""

    shape: ModelShape
    num_parameters: int
    num_trained: int


def measure_model(base: BaseModelRef) -> ModelSize:
    """Return the size that the training worker measures on the loaded model (`tasks.workers.model.shape_of`)."""
    sizes = dict(_tensors(Path(base.directory)))
    config = _text_config(base)
    tables = [math.prod(size) for size in sizes.values() if len(size) == 2 and size[0] == config.vocab_size]
    is_tied = getattr(config, "tie_word_embeddings", False) or len(tables) < 2
    embedding = tables[0] if tables else 0
    # A tied head that was saved nevertheless is one tensor in the model.
    weights = sum(math.prod(size) for size in sizes.values()) - sum(tables[1:] if is_tied else [])
    adapters = _num_adapter_weights(base.lora, sizes) if base.lora is not None else 0
    everything = weights + adapters
    trained = adapters if base.lora is not None else everything
    shape = ModelShape(
        body_parameters=everything - embedding - (0 if is_tied else tables[1]),
        head_parameters=embedding if is_tied else tables[1],
        trainable_share=trained / everything,
        attention_width=attention_width(config),
    )
    return ModelSize(shape, everything, trained)


def attention_width(config: Any) -> int:
    """Return layers × heads × head width of a transformers config; 0 for a model without attention."""
    num_heads = getattr(config, "num_attention_heads", None) or 0
    return int(config.num_hidden_layers * num_heads * head_width(config)) if num_heads else 0


def cache_width(config: Any) -> int:
    """Return the number of cached values per token over all layers; 0 for a model without attention."""
    heads = getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", None) or 0
    return int(2 * config.num_hidden_layers * heads * head_width(config)) if heads else 0


def head_width(config: Any) -> int:
    """Return the width of an attention head of a transformers config."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _tensors(directory: Path) -> Iterator[tuple[str, list[int]]]:
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="np") as opened:
            for name in opened.keys():  # noqa: SIM118 - no mapping
                yield name, opened.get_slice(name).get_shape()


def _text_config(base: BaseModelRef):  # type: ignore[no-untyped-def]  # transformers has a class for each model
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base.directory, trust_remote_code=base.trust_remote_code)
    return config.get_text_config()


def _num_adapter_weights(lora: LoraConfig, sizes: dict[str, list[int]]) -> int:
    modules = {name.removesuffix(".weight"): size for name, size in sizes.items() if len(size) == 2}
    return sum(lora.r * sum(size) for name, size in modules.items() if _is_adapted(lora, name))


def _is_adapted(lora: LoraConfig, module: str) -> bool:
    """Return whether peft puts an adapter on a module, by its rules for `target_modules`."""
    targets = lora.target_modules
    if targets == "all-linear":
        return not _TABLES.search(module)
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    return any(module == target or module.endswith(f".{target}") for target in targets)
