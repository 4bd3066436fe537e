"""Read a YAML file and overrides into a SearchConfig, or report every problem at once."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from tasks.config import launcher as accelerate_file
from tasks.config.identity import identity_of
from tasks.config.presets import expand_preset
from tasks.config.schema import SearchConfig
from tasks.config.section import NAME_PATTERN
from tasks.config.strict_yaml import dump_yaml, read_yaml
from tasks.errors import ConfigError
from tasks.redaction import without_passwords

# What pydantic's error types want, in a user's words.
_WANTED = {
    "string_type": "text",
    "model_type": "a section of keys and values",
    "dict_type": "a section of keys and values",
    "tuple_type": "a list",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "literal_error": "{expected}",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "finite_number": "a finite number",
    "invalid_key": "text as a key",
    "string_too_short": "text that is not empty",
    "too_short": "at least {min_length} item",
}


def load_config(path: str, overrides: Sequence[str] = ()) -> SearchConfig:
    """Return the configuration of `path` with `overrides` of the form `a.b=c` (c is read as YAML).

    Raises:
        ConfigError: the file cannot be read or holds something that is refused; lists every problem.
    """
    raw = _read_yaml(path)
    problems: list[str] = []
    for override in overrides:
        try:
            _apply_override(raw, override)
        except ConfigError as error:
            problems += [f"{error.where}: {problem}" for problem in error.problems]
    raw.setdefault("config_dir", str(Path(path).resolve().parent))
    try:
        config = parse_config(raw, where=path)
    except ConfigError as error:
        problems += error.problems
    else:
        launched_by = config.training.accelerate_config
        if launched_by is not None:
            problems += accelerate_file.problems_of(config.resolve(launched_by), config.training)
    if problems:
        raise ConfigError(path, problems)
    return config


def load_shown_config(path: str, overrides: Sequence[str]) -> SearchConfig:
    """Return the same for a run whose parameters Prefect keeps and shows.

    Raises:
        ConfigError: also where an override holds a password.
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
    return load_config(path, overrides)


def change_config(config: SearchConfig, changes: Mapping[str, Any], where: str) -> SearchConfig:
    """Return `config` with the values of `changes` at dotted paths; None puts a default back.

    Raises:
        ConfigError: the result is refused; `where` is named in it.
    """
    raw = config.model_dump(mode="json")
    raw["tracking"]["uri"] = config.tracking.uri  # a dump hides its password
    for path, value in changes.items():
        node, leaf = _place_of(raw, path, where)
        if value is None:
            node.pop(leaf, None)
        else:
            node[leaf] = value
    return parse_config(raw, where)


def parse_config(raw: Mapping[str, Any], where: str) -> SearchConfig:
    """Return the validated configuration; `where` is named in the error."""
    try:
        return SearchConfig.model_validate(expand_preset(raw))
    except ValidationError as error:
        raise ConfigError(where, _problems(error, raw)) from None


def search_id_of(config: SearchConfig) -> str:
    """Return 8 hex digits that name the search; where and on how many processes it runs does not count."""
    return hashlib.sha256(json.dumps(identity_of(config), sort_keys=True).encode()).hexdigest()[:8]


def dump_config(config: SearchConfig) -> str:
    """Return the resolved configuration as YAML that `load_config` reads back from anywhere as the same search."""
    return dump_yaml(config.model_dump(mode="json"))


def explain_config(config: SearchConfig) -> str:
    """Return the resolved configuration as YAML, each value marked `default` unless it was given."""
    lines: list[str] = []
    for path, value, is_given in _leaves(config, ()):
        text = json.dumps(value, ensure_ascii=False)
        mark = "" if is_given else "  # default"
        lines.append(f"{'.'.join(path)}: {text}{mark}")
    return "\n".join(lines)


def _leaves(value: BaseModel, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, bool]]:
    shown = value.model_dump(mode="json")  # without passwords
    for key in type(value).model_fields:
        child, is_given = getattr(value, key), key in value.model_fields_set
        if isinstance(child, BaseModel):
            yield from _leaves(child, (*path, key))
        elif isinstance(child, tuple) and child and isinstance(child[0], BaseModel):
            for index, item in enumerate(child):
                yield from _leaves(item, (*path, key, str(index)))
        else:
            yield (*path, key), shown[key], is_given


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        near = sorted(str(p) for p in Path(path).parent.glob("*.y*ml")) if Path(path).parent.is_dir() else []
        hint = f"; there are {', '.join(near)}" if near else ""
        raise ConfigError(path, [f"no such file{hint}"]) from None
    except (OSError, ValueError) as error:  # a directory, no permission, a name no file can have, other bytes
        raise ConfigError(path, [f"cannot be read as UTF-8 text: {error}"]) from None
    try:
        raw = read_yaml(text)
    except ValueError as error:
        raise ConfigError(path, [f"not YAML: {error}"]) from None
    if not isinstance(raw, dict):
        raise ConfigError(path, [f"wanted a mapping of keys to values at the top, got {type(raw).__name__}"])
    return raw


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not all(key.split(".")):
        raise ConfigError(f"--set {override}", ["wanted the form a.b=value"])
    try:
        value = read_yaml(text)
    except ValueError:
        raise ConfigError(f"--set {override}", [f"the value {text!r} is not YAML"]) from None
    node, leaf = _place_of(raw, key, f"--set {override}")
    node[leaf] = value


def _place_of(raw: dict[str, Any], path: str, where: str) -> tuple[Any, Any]:
    """Return the section or list that holds what a dotted path names, and its key or index there."""
    *parents, leaf = path.split(".")
    node: Any = raw
    for parent in parents:
        if isinstance(node, list):
            node = node[_index_of(node, parent, where)]
        else:
            if node.get(parent) is None:
                node[parent] = {}
            node = node[parent]
        if not isinstance(node, dict | list):
            raise ConfigError(where, [f"{parent} holds a value, not a section"])
    return node, _index_of(node, leaf, where) if isinstance(node, list) else leaf


def _index_of(items: list[Any], key: str, where: str) -> int:
    """Return the index of the item with the number, or the `name`, that `key` gives."""
    for index, item in enumerate(items):
        if key == str(index) or (isinstance(item, dict) and item.get("name") == key):
            return index
    names = [str(item.get("name", index)) for index, item in enumerate(items) if isinstance(item, dict)]
    raise ConfigError(where, [f"no item {key!r}; there are {', '.join(names) or len(items)}"])


def _problems(error: ValidationError, raw: Mapping[str, Any]) -> list[str]:
    """Return one line a problem, `path: what was wanted; what came`.

    A problem around another one only follows from it, or is a union's branch that was not meant; problems of one
    place are a union's branches, of which none fits.
    """
    places: dict[tuple[str | int, ...], list[Mapping[str, Any]]] = {}
    for problem in error.errors():
        place = tuple(part for part in problem["loc"] if not _names_union_branch(part))
        places.setdefault(place, []).append(problem)
    innermost = [a for a in places if not any(b[: len(a)] == a != b for b in places)]
    return [f"{_path_of(place, raw)}: {_describe(place, places[place])}" for place in innermost]


def _path_of(place: Sequence[str | int], raw: Any) -> str:
    """Return the path as `--set` takes it: list items that have a name go by it."""
    parts = []
    for part in place:
        try:
            raw = raw[part]
        except (KeyError, IndexError, TypeError):  # what is missing has no name
            raw = None
        has_name = isinstance(part, int) and isinstance(raw, dict) and isinstance(raw.get("name"), str)
        parts.append(raw["name"] if has_name else str(part))
    return ".".join(parts) or "(top)"


def _describe(place: Sequence[str | int], problems: Sequence[Mapping[str, Any]]) -> str:
    """Return what was wanted at `place` and what came."""
    problem = problems[0]
    if problem["type"] == "extra_forbidden":
        return f"unknown key; {_hint(str(place[-1]), _keys_at(place[:-1]))}"
    if problem["type"] == "missing":
        return "required, and not given"
    if problem["type"] == "value_error":
        return str(problem["msg"]).removeprefix("Value error, ")
    wanted = " or ".join(dict.fromkeys(_wanted(branch) for branch in problems))
    return f"wanted {wanted}; got {problem['input']!r:.80}"


def _hint(key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    elsewhere = [path for path in _all_paths(SearchConfig, "") if path.rpartition(".")[2] == key]
    if near or elsewhere:
        return f"did you mean {' or '.join(near or elsewhere)}?"
    return f"known keys: {', '.join(known)}"


def _wanted(problem: Mapping[str, Any]) -> str:
    """Return in a user's words what pydantic wanted."""
    if problem["type"] == "string_pattern_mismatch" and problem["ctx"]["pattern"] == NAME_PATTERN:
        return "at most 64 letters, digits, and . _ - after the first"
    text = _WANTED.get(problem["type"])
    return text.format(**problem.get("ctx", {})) if text is not None else str(problem["msg"])


def _names_union_branch(part: str | int) -> bool:
    """Say whether pydantic put this part in for a type of a union, not for a key."""
    return str(part).startswith(("literal[", "dict[", "tuple[")) or part in (
        "str",
        "constrained-str",
        "Carve",
    )


def _keys_at(location: Sequence[Any]) -> list[str]:
    """Return the keys that the section at `location` knows."""
    model: Any = SearchConfig
    for part in location:
        if isinstance(part, int) or part not in model.model_fields:
            continue
        model = _model_in(model.model_fields[part].annotation) or model
    return [key for key in model.model_fields if key != "config_dir"]


def _all_paths(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """Yield the dotted path of every key outside of lists."""
    for key, field in model.model_fields.items():
        yield f"{prefix}{key}"
        child = _model_in(field.annotation)
        if child is not None and get_origin(field.annotation) is not tuple:
            yield from _all_paths(child, f"{prefix}{key}.")


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the first pydantic model named in a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        if (found := _model_in(argument)) is not None:
            return found
    return None
