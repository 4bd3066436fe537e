"""Read a YAML file and overrides into a SearchConfig, or report all of their problems at once."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from tasks.config import launcher
from tasks.config.identity import identity_of
from tasks.config.method import Options, rename_options
from tasks.config.presets import expand_preset
from tasks.config.problems import Place, problems_of
from tasks.config.schema import SearchConfig
from tasks.config.strict_yaml import Document, dump_yaml, read_document, read_yaml
from tasks.errors import ConfigError
from tasks.redaction import without_passwords

logger = logging.getLogger(__name__)

_COMMENT_COLUMN = 40


def load_config(path: str, overrides: Sequence[str] = (), *, is_shared: bool = False) -> SearchConfig:
    """Return the configuration of a YAML file.

    Args:
        path: the file.
        overrides: values of the form `a.b=c`, where c is read as YAML.
        is_shared: whether several methods share the file, so that a preset named in it is its plain method.

    Raises:
        ConfigError: the file cannot be read, or a value is refused; lists every problem.
    """
    document = _read_file(path)
    raw: dict[str, Any] = json.loads(json.dumps(document.value))  # parts that aliases share become parts of their own
    overridden, problems = _apply(raw, overrides)

    def origin_of(place: Place) -> str:
        line = document.line_of(place)
        if any(place[: len(one)] == one or (line is None and one[: len(place)] == place) for one in overridden):
            return "--set"
        return f"line {line}" if line is not None else ""

    raw.setdefault("config_dir", str(Path(path).resolve().parent))
    _warn_of_old_names(raw)
    try:
        config = parse_config(expand_preset(raw, has_settings=not is_shared), path, origin_of)
    except ConfigError as error:
        problems += error.problems
    else:
        launched_by = config.training.accelerate_config
        if launched_by is not None:
            problems += launcher.problems_of(config.resolve(launched_by), config.training)
    if problems:
        raise ConfigError(path, problems)
    return config


def load_shown_config(path: str, overrides: Sequence[str], *, is_shared: bool = False) -> SearchConfig:
    """Return the same for a run whose parameters Prefect keeps and shows.

    Raises:
        ConfigError: as `load_config`; also where an override has a password.
    """
    shown = [without_passwords(override) for override in overrides]
    problems = [
        f"overrides: {text} has a password, and stands on Prefect's pages with it; change the password, and give it as "
        "MLFLOW_TRACKING_PASSWORD (with MLFLOW_TRACKING_USERNAME; a database's as PGPASSWORD) in the worker's "
        "environment, or in the YAML file"
        for text, override in zip(shown, overrides, strict=True)
        if text != override
    ]
    if problems:
        raise ConfigError(path, problems)
    return load_config(path, overrides, is_shared=is_shared)


def change_config(config: SearchConfig, changes: Mapping[str, Any], where: str) -> SearchConfig:
    """Return `config` with the values of `changes` at dotted paths; None restores a default.

    Raises:
        ConfigError: the result is refused; names `where`.
    """
    raw = config.model_dump(mode="json")
    raw["tracking"]["uri"] = config.tracking.uri  # a dump hides its password
    for path, value in changes.items():
        node, leaf, _ = _find(raw, path, where)
        if value is None:
            node.pop(leaf, None)
        else:
            node[leaf] = value
    return parse_config(raw, where)


def parse_config(
    raw: Mapping[str, Any], where: str, origin_of: Callable[[Place], str] = lambda place: ""
) -> SearchConfig:
    """Return the validated configuration.

    Args:
        raw: sections, keys and values, as JSON has them.
        where: the name in an error.
        origin_of: returns where a part of `raw` comes from, for an error; empty: unknown.

    Raises:
        ConfigError: lists every problem.
    """
    text = json.dumps(expand_preset(raw))
    try:
        # Strict, and as JSON: 1 is no true and '16' no 16, but a list is a tuple and 2 a float.
        return SearchConfig.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise ConfigError(where, problems_of(error, json.loads(text), origin_of)) from None


def search_id_of(config: SearchConfig) -> str:
    """Return the 8 hex digits that identify a search, independent of where it runs and on how many processes."""
    return hashlib.sha256(json.dumps(identity_of(config), sort_keys=True).encode()).hexdigest()[:8]


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


def _read_file(path: str) -> Document:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        near = sorted(str(p) for p in Path(path).parent.glob("*.y*ml")) if Path(path).parent.is_dir() else []
        hint = f"; there are {', '.join(near)}" if near else ""
        raise ConfigError(path, [f"no such file{hint}"]) from None
    except (OSError, ValueError) as error:  # a directory, no permission, a name no file can have, other bytes
        raise ConfigError(path, [f"cannot be read as UTF-8 text: {error}"]) from None
    try:
        document = read_document(text)
    except ValueError as error:
        raise ConfigError(path, [f"not YAML: {error}"]) from None
    if not isinstance(document.value, dict):
        got = "nothing" if document.value is None else f"a {type(document.value).__name__}"
        raise ConfigError(path, [f"got {got}; expected keys and values at the top"])
    return document


def _warn_of_old_names(raw: Mapping[str, Any]) -> None:
    search = raw.get("search")
    options = search.get("options") if isinstance(search, Mapping) else None
    if isinstance(options, Mapping):
        renamed = rename_options(options)
        old = [f"{name}: {value}" for name, value in options.items() if (name, value) not in renamed.items()]
        new = [f"{name}: {value}" for name, value in renamed.items() if (name, value) not in options.items()]
        for before, now in zip(old, new, strict=True):
            logger.warning(f"search.options: write {now} in place of {before}, which the next version refuses")


def _apply(raw: dict[str, Any], overrides: Sequence[str]) -> tuple[list[Place], list[str]]:
    """Set the values of overrides in `raw`; return their places, and the problems of those that cannot be set."""
    places: list[Place] = []
    problems: list[str] = []
    for override in overrides:
        try:
            places.append(_apply_override(raw, override))
        except ConfigError as error:
            problems += [f"{error.where}: {problem}" for problem in error.problems]
    return places, problems


def _apply_override(raw: dict[str, Any], override: str) -> Place:
    """Set the value of `a.b=c` in `raw`, and return its place there."""
    path, separator, text = override.partition("=")
    where = f"--set {override}"
    if not separator or not all(path.split(".")):
        raise ConfigError(where, ["expected the form a.b=value"])
    try:
        value = read_yaml(text)
    except ValueError as error:
        raise ConfigError(where, [f"the value {text!r} is not YAML: {error}"]) from None
    node, leaf, place = _find(raw, path, where)
    node[leaf] = value
    return place


def _find(raw: dict[str, Any], path: str, where: str) -> tuple[Any, Any, Place]:
    """Return the section or list that holds a dotted path's value, the key or index there, and the whole place."""
    *parents, leaf = path.split(".")
    node: Any = raw
    place: list[str | int] = []
    for parent in parents:
        part = _key_in(node, parent, where)
        if isinstance(node, dict) and node.get(part) is None:
            node[part] = {}
        node = node[part]
        place.append(part)
        if not isinstance(node, dict | list):
            raise ConfigError(where, [f"{parent} is a value, not a section"])
    part = _key_in(node, leaf, where)
    return node, part, (*place, part)


def _key_in(node: Any, key: str, where: str) -> Any:
    """Return the key itself in a section, and in a list the index of the item with that number or `name`."""
    if isinstance(node, dict):
        return key
    for index, item in enumerate(node):
        if key == str(index) or (isinstance(item, dict) and item.get("name") == key):
            return index
    names = [str(item.get("name", index)) for index, item in enumerate(node) if isinstance(item, dict)]
    raise ConfigError(where, [f"no item {key!r}; there are {', '.join(names) or len(node)}"])
