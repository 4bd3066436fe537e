"""What a search's result depends on beside its identity: how it is computed, and by which packages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.config.schema import SearchConfig
from tasks.runtime.environment import device_of, version_of
from tasks.runtime.processes import num_threads

# Where a search runs and is recorded: nothing of it reaches a number.
PLACES = {"output_root", "tracking", "config_dir"}
# How it is computed: the same mathematics in another order of rounding, measured below 2e-5 in tests/numerics.
COMPUTATION: dict[str, set[str]] = {
    "model": {"attn_implementation", "gradient_checkpointing"},
    "training": {"micro_batch_size", "batching", "device", "num_processes", "accelerate_config", "threads"},
    "evaluation": {"batch_tokens", "beside_training"},
}
# What an environment says of the same thing as a setting of the world.
_MACHINES = {"training.device:": "gpus:", "training.threads:": "num_cores:"}
_PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "peft")


def identity_of(config: SearchConfig) -> dict[str, Any]:
    """Return all that makes this search another one than another: the configuration but for its places and means."""
    return identity_in(config.model_dump(mode="json"))


def identity_in(dumped: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same of a configuration as a search keeps it on disk."""
    kept = {section: value for section, value in dumped.items() if section not in PLACES}
    for section, fields in COMPUTATION.items():
        kept[section] = {
            field: value for field, value in kept.get(section, {}).items() if field not in fields
        }
    return kept


def world_of(config: SearchConfig) -> dict[str, Any]:
    """Return what changes a search's numbers in their last digits, flat: settings and package versions.

    What a setting leaves to the machine stands there as the machine has it: the device, and on a CPU the threads.
    """
    world = {
        f"{section}.{field}": getattr(getattr(config, section), field)
        for section, fields in COMPUTATION.items()
        for field in sorted(fields - {"beside_training"})
    }
    world["training.device"] = device_of(config.training)
    if world["training.device"] == "cpu":
        world["training.threads"] = num_threads(config.training.threads)
    launched_by = config.training.accelerate_config
    if launched_by is not None:
        world["training.accelerate_config"] = Path(config.resolve(launched_by)).read_text()
    return world | {name: version_of(name) for name in _PACKAGES}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name every leaf in which two nested mappings differ: `a.b: was 1, is 2`."""
    old, new = dict(_leaves(before, "")), dict(_leaves(now, ""))
    return [
        f"{path}: was {_shown(old, path)}, is {_shown(new, path)}"
        for path in dict.fromkeys([*old, *new])
        if old.get(path) != new.get(path) or (path in old) != (path in new)
    ]


def remarks(before: Mapping[str, Any], now: Mapping[str, Any], changed: Sequence[str]) -> list[str]:
    """Say what else differs between two environments, beside what of the world has `changed`."""
    told = [f"versions.{name}:" for name in _PACKAGES]
    told += [part for setting, part in _MACHINES.items() if any(line.startswith(setting) for line in changed)]
    return [
        f"{line}, which {'may change last digits' if line.startswith('cpu:') else 'changes no result'}"
        for line in differences(before, now)
        if not line.startswith(tuple(told))
    ]


def _shown(leaves: Mapping[str, Any], path: str) -> str:
    return f"{leaves[path]!r:.80}" if path in leaves else "absent"


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield (path, value); list items that have a name go by it, as `--set` takes them."""
    if isinstance(value, Mapping) and value:
        for key, child in value.items():
            yield from _leaves(child, f"{path}.{key}" if path else str(key))
    elif isinstance(value, Sequence) and value and isinstance(value[0], Mapping):
        for index, child in enumerate(value):
            yield from _leaves(child, f"{path}.{child.get('name', index)}")
    else:
        yield path, value
