"""Build or convert a base model into a transformers directory: `python -m tasks.workers.build_base SPEC`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, set_seed

from tasks.errors import ModelError
from tasks.runtime.files import publish_folder
from tasks.workers.model import load_pretrained
from tasks.workers.supervisor import run_worker


def build_base(spec_path: Path) -> None:
    """Write the model and tokenizer of a spec; the directory appears complete or not at all."""
    spec: dict[str, Any] = json.loads(spec_path.read_text())
    directory = Path(spec["directory"])
    tokenizer = _tokenizer(spec)
    model = _model(spec, tokenizer)

    def write(staging: Path) -> None:
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)

    publish_folder(directory, write, "the base model")


def _model(spec: dict[str, Any], tokenizer: Any) -> Any:
    if spec["from_config"] is not None:
        options = {"vocab_size": len(tokenizer), **spec["from_config"]}
        ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
        set_seed(spec["seed"])
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**ids, **options}), dtype=torch.float32)
    source = Path(spec["source"])
    if source.suffix != ".gguf":
        return load_pretrained(source, trust_remote_code=spec["trust_remote_code"], dtype="auto")
    model = load_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    # save_pretrained refuses a model with these attributes of its quantization, though the weights are plain floats.
    for leftover in ("hf_quantizer", "quantization_method"):
        if hasattr(model, leftover):
            delattr(model, leftover)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized = False
    return model


def _tokenizer(spec: dict[str, Any]) -> Any:
    name = spec["tokenizer"]
    if name == "characters":
        from tasks.data.synthetic import character_tokenizer

        return character_tokenizer()
    if name is None:
        source = Path(spec["source"])
        return AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=spec["trust_remote_code"])
    except (OSError, ValueError) as error:
        raise ModelError(
            name,
            got=" ".join(str(error).split())[:200],
            expected="a tokenizer: a directory, a hub id or `characters`",
            fix="fix model.tokenizer",
        ) from error


if __name__ == "__main__":
    sys.exit(run_worker(build_base, Path(sys.argv[1])))
