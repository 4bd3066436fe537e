"""A configuration on record: what identifies its search, where two of them differ, and its text as YAML."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from tasks.config.method import Options, first_names
from tasks.config.schema import SearchConfig
from tasks.config.strict_yaml import dump_yaml

# Where a search runs and is recorded. None of it reaches a number.
PLACES = {"output_root", "tracking", "config_dir"}
# How a search is computed: the same mathematics, rounded in another order (measured below 2e-5 in tests/numerics).
COMPUTATION: dict[str, set[str]] = {
    "model": {"attn_implementation", "gradient_checkpointing"},
    "training": {
        *("micro_batch_size", "batching", "device", "num_processes", "accelerate_config", "threads"),
        *("hidden_cache_gb", "machines", "silence_s", "join_minutes"),
    },
    "evaluation": {"batch_tokens", "beside_training"},
}
# Version of the arithmetic of a step where that is not the first one's, bit for bit.
ENGINE = 2
# A step of at most as many tokens is one pass on a CPU, as it always was; see `workers/training/batches.py`.
ONE_PASS_TOKENS = 2048
_ABSENT = object()
_COMMENT_COLUMN = 40


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
    if kept["model"].get("chat_template") is None:  # it came later, and changes nothing where it is absent
        kept["model"].pop("chat_template", None)
    if kept["training"].get("trainable_layers") == "all":
        kept["training"].pop("trainable_layers")
    kept["evaluation"].pop("suspects", None)  # changes no decision
    search = dict(kept.get("search", {}))
    if search.get("champion") == "best":  # so it was before there was a choice
        del search["champion"]
    return kept | {"search": search | {"options": first_names(search.get("options", {}))}}


def engine_of(config: SearchConfig, device: str) -> int:
    """Return the version of the arithmetic that a search computes with; versions differ in the last digits.

    It is no part of the search's id: an older search goes on under it once its user accepts the change. On a CPU in
    float32 the first version's bits stay (tests/golden), unless a step is now cut into several passes.
    """
    training = config.training
    is_one_pass = training.micro_batch_size is not None or (
        training.batch_size * training.max_length <= ONE_PASS_TOKENS
    )
    return 1 if device == "cpu" and training.precision == "fp32" and is_one_pass else ENGINE


def search_id_of(config: SearchConfig) -> str:
    """Return the 8 hex digits that identify a search, independent of where it runs and on how many processes."""
    return hashlib.sha256(json.dumps(identity_of(config), sort_keys=True).encode()).hexdigest()[:8]


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


def dump_config(config: SearchConfig) -> str:
    """Return the resolved configuration as YAML. `load_config` reads it from anywhere as the same search."""
    return dump_yaml(config.model_dump(mode="json"))


def explain_config(config: SearchConfig) -> str:
    """Return the same with the comment `default` at each value that was not given."""
    return dump_yaml(_commented(config))


def _commented(section: BaseModel) -> CommentedMap:
    shown = section.model_dump(mode="json")  # without passwords
    lines = CommentedMap()
    for key in type(section).model_fields:
        value = getattr(section, key)
        if isinstance(value, BaseModel) and not isinstance(value, Options):
            lines[key] = _commented(value)
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            lines[key] = [_commented(item) for item in value]
        else:
            lines[key] = _in_one_line(shown[key])
            if comment := _comment_on(section, key):
                lines.yaml_add_eol_comment(comment, key, column=_COMMENT_COLUMN)
    return lines


def _comment_on(section: BaseModel, key: str) -> str:
    value = getattr(section, key)
    if isinstance(value, Options):  # a default that is written out would be a part of the search's id
        unset = [name for name in type(value).model_fields if name not in value.model_fields_set]
        told = ", ".join(f"{name}: {json.dumps(getattr(value, name))}" for name in unset)
        return f"default: {told}" if told else ""
    return "" if key in section.model_fields_set else "default"


def _in_one_line(value: Any) -> Any:
    if not isinstance(value, list | dict):
        return value
    flow = CommentedSeq(value) if isinstance(value, list) else CommentedMap(value)
    flow.fa.set_flow_style()
    return flow
