"""The check of an Accelerate config file, which a search is launched with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tasks.config.schema import SearchConfig, TrainingConfig
from tasks.config.strict_yaml import read_yaml


def launcher_problems(config: SearchConfig) -> list[str]:
    """Return one line for each setting of the Accelerate config file that a search cannot run with."""
    if config.training.accelerate_config is None:
        return []
    path = config.resolve(config.training.accelerate_config)
    if not path.is_file():
        return [f"training.accelerate_config: no file {path}"]
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return [f"training.accelerate_config: {path} is not YAML: {error}"]
    if not isinstance(content, dict):
        got = f"got a {type(content).__name__}; expected keys and values, as `accelerate config` writes them"
        return [f"training.accelerate_config: {path}: {got}"]
    return [
        f"training.accelerate_config: {path}: {problem}" for problem in _launcher_problems(content, config.training)
    ]


def _launcher_problems(content: Mapping[str, Any], training: TrainingConfig) -> Iterator[str]:
    kind = str(content.get("distributed_type", "")).lower()
    if not kind:
        yield "got no distributed_type; expected NO, MULTI_GPU or FSDP"
    for engine in ("deepspeed", "megatron_lm"):  # they own the optimizer, which our checkpoints and averages need
        if kind == engine or content.get(f"{engine}_config"):
            yield f"got {engine}; expected FSDP (deployments/accelerate/fsdp.yaml) for a large model"
    fsdp = content.get("fsdp_config") or {}
    if kind == "fsdp" and isinstance(fsdp, dict) and str(fsdp.get("fsdp_version", 1)) != "2":
        yield "got FSDP 1, whose flat parameters hide the model's; write fsdp_version: 2 under fsdp_config"
    machines, processes = content.get("num_machines") or 1, content.get("num_processes") or 1
    if machines != training.machines:
        yield f"got num_machines {machines} beside training.machines {training.machines}; write the same in both"
    elif isinstance(processes, int) and processes % machines:
        yield f"got num_processes {processes} on {machines} machines; expected a multiple of {machines}"
    if str(content.get("compute_environment", "LOCAL_MACHINE")) != "LOCAL_MACHINE":
        yield f"got compute_environment {content['compute_environment']}; expected LOCAL_MACHINE"
    asked = str(content.get("mixed_precision") or "no").lower()
    asked = "no" if asked == "false" else asked
    ours = {"fp32": "no", "bf16": "bf16"}[training.precision]
    if asked not in ("no", ours) or content.get("fp16"):
        yield (
            f"got mixed_precision {'fp16' if content.get('fp16') else asked} beside training.precision "
            f"{training.precision}; write 'no' in that file, and bf16 or fp32 as training.precision"
        )
