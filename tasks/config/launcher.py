"""Check an Accelerate config file: one machine, a supported engine, and the precision of the search."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.config.schema import TrainingConfig
from tasks.config.strict_yaml import read_yaml

# These engines own the optimizer, which our checkpoints, clipping and averages need.
_OTHER_ENGINES = ("deepspeed", "megatron_lm")


def problems_of(path: Path, training: TrainingConfig) -> list[str]:
    """Return one line for each setting that a search cannot run with."""
    if not path.is_file():
        return [f"training.accelerate_config: no file {path}"]
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return [f"training.accelerate_config: {path} is not YAML: {error}"]
    if not isinstance(content, dict):
        got = f"got a {type(content).__name__}; expected keys and values, as `accelerate config` writes them"
        return [f"training.accelerate_config: {path}: {got}"]
    return [f"training.accelerate_config: {path}: {problem}" for problem in _problems(content, training)]


def _problems(content: Mapping[str, Any], training: TrainingConfig) -> Iterator[str]:
    kind = str(content.get("distributed_type", "")).lower()
    if not kind:
        yield "got no distributed_type; expected NO, MULTI_GPU or FSDP"
    for engine in _OTHER_ENGINES:
        if kind == engine or content.get(f"{engine}_config"):
            yield f"got {engine}; expected FSDP (deployments/accelerate/fsdp.yaml) for a large model"
    # Each machine would run a search of its own, and wait for the lock of the other's.
    if content.get("num_machines", 1) not in (1, None):
        yield f"got num_machines {content['num_machines']}; expected 1: a search runs on the GPUs of one machine"
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
