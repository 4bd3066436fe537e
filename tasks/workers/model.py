"""Load the base model and the weights of checkpoints; safetensors only, nothing is unpickled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from tasks.algorithm.costs import ModelShape
from tasks.contracts import BaseModelRef
from tasks.data.model_size import attention_width, first_trained_layer
from tasks.errors import ModelError
from tasks.workers.cut import cut_model, cut_of, modules_below

WEIGHTS = "model.safetensors"
AVERAGE = "average.safetensors"


def load_base(base: BaseModelRef) -> Any:
    """Return the base model in float32, with new adapters if the search trains LoRA, and its lower layers frozen.

    Raises:
        ModelError: transformers or peft reject it, tensors are missing, or its layers cannot be frozen in part.
    """
    model = load_whole(base, base.directory)
    if base.lora is not None:
        model = _with_adapters(model, base)
    cut_model(model, base)
    if base.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if base.lora is not None and base.trainable_layers is None:
            model.enable_input_require_grads()
    return model


def load_tokenizer(base: BaseModelRef) -> Any:
    """Return the base model's tokenizer, with the search's chat template if it has one."""
    tokenizer = AutoTokenizer.from_pretrained(base.directory, trust_remote_code=base.trust_remote_code)
    tokenizer.chat_template = base.chat_template or tokenizer.chat_template
    return tokenizer


def load_whole(base: BaseModelRef, directory: str | Path) -> Any:
    """Return the model of a directory in float32, as `base` is to be loaded.

    Raises:
        ModelError: transformers reject it, or tensors are missing.
    """
    return load_pretrained(
        directory,
        dtype=torch.float32,
        trust_remote_code=base.trust_remote_code,
        attn_implementation=base.attn_implementation,
    )


def load_pretrained(source: str | Path, **options: Any) -> Any:
    """Return the model of a directory; from safetensors or GGUF alone, and never with tensors that no file holds.

    Raises:
        ModelError: transformers reject it, or tensors are missing.
    """
    transformers_logging.disable_progress_bar()
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(
            source, use_safetensors=True, local_files_only=True, output_loading_info=True, **options
        )
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        needs_trust = "custom code" in str(error) and not options.get("trust_remote_code")
        raise ModelError(
            str(source),
            got=" ".join(str(error).split())[:300],
            expected="a causal language model that transformers loads",
            fix="read its code, and set model.trust_remote_code=true if you trust it"
            if needs_trust
            else "check model.source and model.attn_implementation",
        ) from error
    if missing := sorted(loaded["missing_keys"]):
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise ModelError(
            str(source),
            got=f"weights without {', '.join(missing[:5])}{more}, which would be random numbers",
            expected="every tensor of a causal language model",
            fix="download or save the whole model again; a model without a language-model head cannot be trained",
        )
    return model


def _with_adapters(model: Any, base: BaseModelRef) -> Any:
    from peft import LoraConfig, get_peft_model

    assert base.lora is not None
    targets = base.lora.target_modules
    first = first_trained_layer(base, model.config.get_text_config())
    torch.manual_seed(base.seed)  # adapters start from random numbers, the same ones in every worker
    try:
        return get_peft_model(
            model,
            LoraConfig(
                task_type="CAUSAL_LM",
                r=base.lora.r,
                lora_alpha=base.lora.alpha,
                lora_dropout=base.lora.dropout,
                target_modules=targets if isinstance(targets, str) else list(targets),
                exclude_modules=modules_below(model, first) if first else None,
            ),
        )
    except ValueError as error:
        raise ModelError(
            base.directory,
            got=" ".join(str(error).split())[:300],
            expected="model.lora.target_modules that the model has",
            fix="use all-linear, or name modules of this model, of its trained layers",
        ) from error


def trained_names(model: Any) -> list[str]:
    """Return the names of the parameters that training changes; tied parameters once."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def scored_file(directory: Path) -> str:
    """Return the file of weights that is scored and exported: the average, if the search keeps one."""
    return AVERAGE if (directory / AVERAGE).exists() else WEIGHTS


def load_weights(model: Any, directory: Path, file: str = WEIGHTS) -> None:
    """Copy the weights of a checkpoint into a model of the same base.

    Raises:
        ModelError: the tensors of the checkpoint are not those of the model.
    """
    tensors: Mapping[str, torch.Tensor] = load_file(directory / file)
    check_names(tensors, trained_names(model), str(directory))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in tensors:
                parameter.copy_(tensors[name])


def check_names(tensors: Iterable[str], names: Iterable[str], where: str) -> None:
    """Raise ModelError if the names of a checkpoint's tensors are not those that the model trains."""
    if odd := sorted(set(tensors) ^ set(names)):
        raise ModelError(
            where,
            got=f"other tensors than the model's, such as {', '.join(odd[:5])}",
            expected="a checkpoint of this search",
            fix="start another search with a new name",
        )


def shape_of(model: Any) -> ModelShape:
    """Return the sizes that determine the FLOPs of the model."""
    config = model.config.get_text_config()
    head = model.get_output_embeddings()
    head_parameters = head.weight.numel() if head is not None else 0
    embedding = model.get_input_embeddings().weight
    all_parameters = sum(parameter.numel() for parameter in model.parameters())
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    is_tied = head is not None and head.weight is embedding
    body = all_parameters - embedding.numel() - (0 if is_tied else head_parameters)
    cut, width = cut_of(model), attention_width(config)
    frozen = sum(p.numel() for layer in cut.below for p in layer.parameters()) if cut is not None else 0
    return ModelShape(
        body_parameters=body,
        head_parameters=head_parameters,
        trainable_share=trainable / (body - frozen if cut is not None else all_parameters),
        attention_width=width,
        frozen_parameters=frozen,
        frozen_width=width * cut.first // config.num_hidden_layers if cut is not None else 0,
    )


def choose_device(device: str) -> torch.device:
    """Return the first accelerator if there is one and the configuration allows it, else the CPU."""
    if device == "cpu" or not torch.accelerator.is_available():
        return torch.device("cpu")
    accelerator = torch.accelerator.current_accelerator()
    assert accelerator is not None
    return accelerator


def device_name(device: torch.device, num_processes: int) -> str:
    """Return a name for the devices of this worker: `cpu`, `cuda (NVIDIA L4) × 2`."""
    name = f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
    return f"{name} × {num_processes}" if num_processes > 1 else name
