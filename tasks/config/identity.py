"""Identity of a search: which settings make two configurations the same search, and where two of them differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.config.method import first_names
from tasks.config.schema import SearchConfig

# Where a search runs and is recorded. None of it reaches a number.
PLACES = {"output_root", "tracking", "config_dir"}
# How a search is computed: the same mathematics, rounded in another order (measured below 2e-5 in tests/numerics).
COMPUTATION: dict[str, set[str]] = {
    "model": {"attn_implementation", "gradient_checkpointing"},
    "training": {"micro_batch_size", "batching", "device", "num_processes", "accelerate_config", "threads"},
    "evaluation": {"batch_tokens", "beside_training"},
}
_ABSENT = object()


@dataclass(frozen=True)
class Change:
    """One leaf in which two nested mappings differ; its text is `a.b: was 1, is 2`."""

    path: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.path}: was {_shown(self.before)}, is {_shown(self.now)}"


def identity_of(config: SearchConfig) -> dict[str, Any]:
    """Return the settings that identify a search: its configuration without places and means of computation."""
    return identity_in(config.model_dump(mode="json"))


def identity_in(dumped: Mapping[str, Any]) -> dict[str, Any]:
    """Return the identifying settings of a configuration as a search keeps it on disk."""
    kept = {section: value for section, value in dumped.items() if section not in PLACES}
    for section, fields in COMPUTATION.items():
        kept[section] = {field: value for field, value in kept.get(section, {}).items() if field not in fields}
    search = dict(kept.get("search", {}))
    return kept | {"search": search | {"options": first_names(search.get("options", {}))}}


def changes_between(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Return every leaf in which two nested mappings differ."""
    old, new = dict(_leaves(before, "")), dict(_leaves(now, ""))
    return [
        Change(path, old.get(path, _ABSENT), new.get(path, _ABSENT))
        for path in dict.fromkeys([*old, *new])
        if old.get(path) != new.get(path) or (path in old) != (path in new)
    ]


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the same as text, one line a leaf."""
    return [str(change) for change in changes_between(before, now)]


def _shown(value: Any) -> str:
    return "absent" if value is _ABSENT else f"{value!r:.80}"


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield (path, value). A list item with a name goes by that name, as in `--set`."""
    if isinstance(value, Mapping) and value:
        for key, child in value.items():
            yield from _leaves(child, f"{path}.{key}" if path else str(key))
    elif isinstance(value, Sequence) and value and isinstance(value[0], Mapping):
        for index, child in enumerate(value):
            yield from _leaves(child, f"{path}.{child.get('name', index)}")
    else:
        yield path, value
