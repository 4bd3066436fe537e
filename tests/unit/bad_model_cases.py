"""Bad base models and tokenizers, each with what it must be told by."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors.numpy

from tasks.errors import ConfigError, DataError, ModelError
from tests.unit.bad_input import Case, Place

CHAT = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
TALK = [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]}]


def _source(source: str, *parts: str) -> Case:
    return Case(lambda place: place.prepare_with(source), ModelError, (f"model {source!r}", *parts))


def _copy(*parts: str, **edits: Any) -> Case:
    """A copy of a good model with files replaced, removed (None) or their JSON keys set (a dict)."""
    return Case(lambda place: place.prepare_with(place.model(**edits)), ModelError, parts)


def _index(file: str) -> str:
    return json.dumps({"weight_map": {"weight": file}})


def _file_in_place(place: Place) -> object:
    return place.prepare_with(place.model() / "config.json")


def _no_gguf(place: Place) -> object:
    return place.prepare_with(place.write("model.gguf", b"not a model"))


CASES = {
    "model: missing": _source(
        "nowhere", "no directory", "nowhere; as a hub id: ", "paths are relative to the YAML file"
    ),
    "model: malformed hub id": _source("a//b", "Repo id must be in the form"),
    "model: home of nobody": _source("~nobody-here/model", "no directory"),
    "model: NUL in the path": _source("a\0b", "no directory"),
    "model: a file": Case(_file_in_place, ModelError, ("which is a file", "a directory with config.json")),
    "model: GGUF that is missing": _source("no.gguf", "no file ", "a GGUF file"),
    "model: GGUF that is none": Case(
        _no_gguf, ModelError, ("begins with b'not '", "a GGUF file", "download the file again")
    ),
    "model: package that is not installed": _source(
        "package:no_such_package/x.gguf", "no installed package 'no_such_package'"
    ),
    "model: package without a file": _source("package:yaml", "no FILE", "package:NAME/FILE"),
    "model: package without that file": _source("package:yaml/no.gguf", "no file ", "no.gguf"),
    "model: package with dots": _source("package:../model", "no installed package '..'"),
    "model: no weights": _copy("files: config.json", "config.json and weights in safetensors", model__safetensors=None),
    "model: pickled weights": _copy(
        "pickled weights (.bin, .pt) are never loaded", model__safetensors=None, pytorch_model__bin=b"x"
    ),
    "model: pickled weights by an index": _copy(
        "model.safetensors.index.json with model-1.bin\n",
        "pickled weights (.bin, .pt) are never loaded",
        model__safetensors=None,
        spare__safetensors=safetensors.numpy.save({"weight": np.zeros(1)}),
        **{"model-1__bin": b"x", "model__safetensors__index__json": _index("model-1.bin")},
    ),
    "model: pickled weights by an index of another name": _copy(
        "other.safetensors.index.json with model-1.bin\n",
        config__json={"transformers_weights": "other.safetensors.index.json"},
        **{"model-1__bin": b"x", "other__safetensors__index__json": _index("model-1.bin")},
    ),
    "model: a shard that is missing": _copy(
        "model.safetensors.index.json with model-1.safetensors, which is missing",
        model__safetensors=None,
        spare__safetensors=safetensors.numpy.save({"weight": np.zeros(1)}),
        model__safetensors__index__json=_index("model-1.safetensors"),
    ),
    "model: weights of another name": _copy(
        "spare.safetensors, and neither model.safetensors nor model.safetensors.index.json",
        "rename the file to model.safetensors, or download the index",
        model__safetensors=None,
        spare__safetensors=safetensors.numpy.save({"weight": np.zeros(1)}),
    ),
    "model: an index that is none": _copy(
        "model.safetensors.index.json cannot be read: weight_map Field required",
        model__safetensors=None,
        spare__safetensors=safetensors.numpy.save({"weight": np.zeros(1)}),
        model__safetensors__index__json="{}",
    ),
    "model: adapters in its folder": _copy("adapter_config.json: adapters", "merge them", adapter_config__json="{}"),
    "model: weights that are a pointer": _copy(
        "model.safetensors cannot be read",
        "git lfs pull",
        model__safetensors="version https://git-lfs.github.com/spec/v1\n",
    ),
    "model: no config": _copy("files: model.safetensors", "config.json and weights", config__json=None),
    "model: config that is no JSON": _copy("config.json cannot be read: Invalid JSON", config__json="{"),
    "model: config that is a list": _copy("config.json cannot be read: Input should be an object", config__json="[]"),
    "model: config without a type": _copy(
        "config.json cannot be read: model_type Field required", config__json={"model_type": None}
    ),
    "model: no tokenizer": _copy(
        "no tokenizer files", "or set model.tokenizer", tokenizer__json=None, tokenizer_config__json=None
    ),
    "model: tokenizer cut off": _copy("a tokenizer that cannot be loaded", "set model.tokenizer", tokenizer__json="{"),
    "model: half a tokenizer": _copy("a tokenizer that cannot be loaded", tokenizer__json=None),
    "model: no embedding for a row's token": Case(
        lambda place: place.prepare_with(place.model(config__json={"vocab_size": 50})),
        DataError,
        ("train row 0", "and the model has the tokens 0 to 49", "set model.tokenizer to one that fits"),
    ),
    "model: tokenizer without an end": _copy(
        "without an end-of-text token",
        "eos_token in tokenizer_config.json, since sub is scored by exact_match",
        tokenizer_config__json={"eos_token": None},
    ),
    "model: a chat template that is missing": Case(
        lambda place: place.prepare_with(place.model(), TALK, chat_template="chatlm"),
        ModelError,
        ("model 'chatlm'", "no chat template ", "chatml, gemma, llama3, mistral, plain", "fix model.chat_template"),
    ),
    "model: fewer layers than are to be trained": Case(
        lambda place: place.read(
            {
                "model": {"source": str(place.model(config__json={"num_hidden_layers": 4}))},
                "training": {"trainable_layers": 4},
            },
            {},
        ),
        ModelError,
        ("trainable_layers 4, and a model of 4 layers", "fewer layers than the model has", "below 4, or to all"),
    ),
    "metric: relabelled rows that are scored by loss": Case(
        lambda place: place.read(
            {"search": {"max_epochs": 1, "options": {"rehearse": "relabelled"}}, "evaluation": {"selection": "loss"}},
            {},
            metric="loss",
        ),
        DataError,
        ("metric loss, which compares no answers", "rehearse=relabelled, rows with answers", "another metric"),
    ),
    "model: fewer positions than max_length": Case(
        lambda place: place.read({"training": {"max_length": 129}}, {}),
        ConfigError,
        ("training.max_length: the model has 128 positions; got 129",),
    ),
}


def _num_tokens(train: Any = None, **edits: Any) -> Callable[[Place], object]:
    return lambda place: place.prepare_with(place.model(**edits), train).train.num_tokens


UNUSUAL: dict[str, tuple[Callable[[Place], object], object]] = {
    "model: no embedding for a token that no row has": (_num_tokens(config__json={"vocab_size": 90}), 54),
    "model: tokenizer without a pad token": (
        _num_tokens(tokenizer_config__json={"pad_token": None}),
        9 * len("p 0 0e"),
    ),
    "model: a chat template": (
        _num_tokens(TALK, tokenizer_config__json={"chat_template": CHAT}),
        len("[user] hi\n[assistant] yoe"),  # the template ends no turn, so end-of-text is taught
    ),
    "model: a chat template that comes with msft": (
        lambda place: place.prepare_with(place.model(), TALK, chat_template="plain").train.num_tokens,
        len("User:\nhi\n\nAssistant:\nyoe"),
    ),
    "model: a chat template in a file": (
        lambda place: (
            place.prepare_with(place.model(), TALK, chat_template=place.write("chat.jinja", CHAT).name).train.num_tokens
        ),
        len("[user] hi\n[assistant] yoe"),
    ),
    "model: sizes kept elsewhere": (
        _num_tokens(config__json={"vocab_size": None, "max_position_embeddings": None}),
        54,
    ),
    "model: a folder with spaces and unicode": (
        lambda place: place.prepare_with(place.model().rename(place.directory / "mein Modell é")).train.num_rows,
        9,
    ),
}
