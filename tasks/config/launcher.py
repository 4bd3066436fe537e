"""What an Accelerate config file may ask for: the processes of one machine, and no other precision than ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.config.schema import TrainingConfig
from tasks.config.strict_yaml import read_yaml

# Their engines own the optimizer, and our checkpoints, clipping and averages reach into that.
_OTHER_ENGINES = ("deepspeed", "megatron_lm")


def problems_of(path: Path, training: TrainingConfig) -> list[str]:
    """Return what keeps a search from running as the file says, one line each, with what to do."""
    if not path.is_file():
        return [f"training.accelerate_config: no file {path}"]
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return [f"training.accelerate_config: {path} is not YAML: {error}"]
    if not isinstance(content, dict):
        return [
            f"training.accelerate_config: {path}: wanted keys and values, as `accelerate config` writes them"
        ]
    return [f"training.accelerate_config: {path}: {problem}" for problem in _problems(content, training)]


def _problems(content: Mapping[str, Any], training: TrainingConfig) -> Iterator[str]:
    kind = str(content.get("distributed_type", "")).lower()
    if not kind:
        yield "no distributed_type; wanted NO, MULTI_GPU or FSDP"
    for engine in _OTHER_ENGINES:
        if kind == engine or content.get(f"{engine}_config"):
            yield f"{engine} is not supported; wanted FSDP (deployments/accelerate/fsdp.yaml) for a large model"
    # The other machines' processes are started by nobody: each would run a search of its own, and wait for its lock.
    if content.get("num_machines", 1) not in (1, None):
        yield f"num_machines is {content['num_machines']}; a search runs on the GPUs of one machine: set it to 1"
    if str(content.get("compute_environment", "LOCAL_MACHINE")) != "LOCAL_MACHINE":
        yield f"compute_environment is {content['compute_environment']}; wanted LOCAL_MACHINE"
    asked = str(content.get("mixed_precision") or "no").lower()
    asked = "no" if asked == "false" else asked
    ours = {"fp32": "no", "bf16": "bf16"}[training.precision]
    if asked not in ("no", ours) or content.get("fp16"):
        yield (
            f"mixed_precision is {'fp16' if content.get('fp16') else asked}, and training.precision is "
            f"{training.precision}, which takes effect; write 'no' there, and bf16 (or fp32) here"
        )
