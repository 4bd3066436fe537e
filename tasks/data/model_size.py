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
from tasks.errors import ModelError

# Embedding tables and the output projection, on which peft's `all-linear` puts no adapter.
_TABLES = re.compile(r"embed|wte|wpe|lm_head")
# The number of a layer in the name of a tensor, or of a module: the first number in it.
_LAYER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")


@dataclass(frozen=True)
class ModelSize:
    """A model's shape, its number of parameters including adapters, how many of them are trained, and its width."""

    shape: ModelShape
    num_parameters: int
    num_trained: int
    hidden_width: int


def measure_model(base: BaseModelRef) -> ModelSize:
    """Return the size that the training worker measures on the loaded model (`tasks.workers.model.shape_of`)."""
    sizes = dict(_tensors(Path(base.directory)))
    config = _text_config(base)
    tables = [math.prod(size) for size in sizes.values() if len(size) == 2 and size[0] == config.vocab_size]
    is_tied = getattr(config, "tie_word_embeddings", False) or len(tables) < 2
    embedding = tables[0] if tables else 0
    # A tied head that was saved nevertheless is one tensor in the model.
    weights = sum(math.prod(size) for size in sizes.values()) - sum(tables[1:] if is_tied else [])
    first = first_trained_layer(base, config)
    adapted = {name: size for name, size in sizes.items() if not first or (layer_of(name) or 0) >= first}
    adapters = _num_adapter_weights(base.lora, adapted) if base.lora is not None else 0
    everything = weights + adapters
    trained, frozen = everything, 0
    if first:
        frozen = sum(math.prod(size) for name, size in sizes.items() if is_below(name, first))
        trained = sum(math.prod(size) for name, size in sizes.items() if is_trained(name, first))
    trained = adapters if base.lora is not None else trained
    body, width = everything - embedding - (0 if is_tied else tables[1]), attention_width(config)
    shape = ModelShape(
        body_parameters=body,
        head_parameters=embedding if is_tied else tables[1],
        trainable_share=trained / (body - frozen if first else everything),
        attention_width=width,
        frozen_parameters=frozen,
        frozen_width=width * first // config.num_hidden_layers,
    )
    return ModelSize(shape, everything, trained, getattr(config, "hidden_size", 0))


def first_trained_layer(base: BaseModelRef, config: Any = None) -> int:
    """Return the number of the lowest layer that is trained, from 0; 0 where all layers are.

    Raises:
        ModelError: the model has no more layers than are to be trained.
    """
    if base.trainable_layers is None:
        return 0
    num_layers = (_text_config(base) if config is None else config).num_hidden_layers
    if base.trainable_layers >= num_layers:
        raise ModelError(
            base.directory,
            got=f"training.trainable_layers {base.trainable_layers}, and a model of {num_layers} layers",
            expected="fewer layers than the model has, or all",
            fix=f"set training.trainable_layers to a number below {num_layers}, or to all",
        )
    return int(num_layers - base.trainable_layers)


def layer_of(name: str) -> int | None:
    """Return the number of the decoder layer in a tensor's or module's name; None outside of the layers."""
    found = _LAYER.search(name)
    return int(found[1]) if found else None


def is_below(name: str, first: int) -> bool:
    """Return whether a tensor is of a layer below layer `first`."""
    layer = layer_of(name)
    return layer is not None and layer < first


def is_trained(name: str, first: int) -> bool:
    """Return whether a tensor is of layer `first`, of one above it, or of the norm behind the last."""
    layer = layer_of(name)
    if layer is not None:
        return layer >= first
    return not _TABLES.search(name) and re.search(r"norm|ln_f", name) is not None


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
