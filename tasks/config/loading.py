"""Read a YAML file and overrides into a SearchConfig, or report all of their problems at once.

A problem is a line for a person: where, what came, what was expected, and the nearest known key.
"""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_origin

from pydantic import BaseModel, ValidationError

from tasks.algorithm.methods import METHODS
from tasks.config.accelerate_file import launcher_problems
from tasks.config.method import SECTIONS, rename_options
from tasks.config.presets import PRESETS, expand_preset, unknown_method
from tasks.config.schema import SearchConfig
from tasks.config.shipped import config_path, known_files
from tasks.config.strict_yaml import Document, read_document, read_yaml
from tasks.config.sub_datasets import model_in
from tasks.errors import ConfigError
from tasks.redaction import without_passwords

logger = logging.getLogger(__name__)

Place = tuple[str | int, ...]
# What pydantic's error types expect, in a user's words.
_EXPECTED = {
    "string_type": "text",
    "model_type": "a section of keys and values",
    "model_attributes_type": "a section of keys and values",
    "dict_type": "a section of keys and values",
    "tuple_type": "a list",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "literal_error": "{expected}",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "finite_number": "a finite number",
    "string_too_short": "text that is not empty",
    "string_pattern_mismatch": "at most 64 letters, digits, and . _ - after the first",  # of a name
    "too_short": "at least {min_length} item",
}


def load_config(path: str, overrides: Sequence[str] = (), *, is_shared: bool = False) -> SearchConfig:
    """Return the configuration of a YAML file; raise ConfigError with every problem.

    Args:
        path: the file, or the name of an example.
        overrides: values of the form `a.b=c`, where c is read as YAML.
        is_shared: whether several methods share the file, so that a preset named in it is its plain method.
    """
    path = config_path(path)
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
        problems += launcher_problems(config)
    if problems:
        raise ConfigError(path, problems)
    return config


def load_shown_config(path: str, overrides: Sequence[str], *, is_shared: bool = False) -> SearchConfig:
    """Return the same for a run whose parameters Prefect keeps and shows; refuse overrides with a password too."""
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
    """Return `config` with the values of `changes` at dotted paths; None restores a default. Errors name `where`."""
    raw = config.model_dump(mode="json")
    raw["tracking"]["uri"] = config.tracking.uri  # a dump hides its password
    for path, value in changes.items():
        try:
            node, leaf, _ = _find(raw, path)
        except ValueError as error:
            raise ConfigError(where, [str(error)]) from None
        if value is None:
            node.pop(leaf, None)
        else:
            node[leaf] = value
    return parse_config(raw, where)


def parse_config(
    raw: Mapping[str, Any], where: str, origin_of: Callable[[Place], str] = lambda place: ""
) -> SearchConfig:
    """Return the validated configuration; raise ConfigError, named `where`, with every problem.

    Args:
        raw: sections, keys and values, as JSON has them.
        where: the name in an error.
        origin_of: returns where a part of `raw` comes from, such as `line 8`; empty: unknown.
    """
    text = json.dumps(expand_preset(raw))
    try:
        # Strict, and as JSON: 1 is no true and '16' no 16, but a list is a tuple and 2 a float.
        return SearchConfig.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise ConfigError(where, _problems_of(error, json.loads(text), origin_of)) from None


def _read_file(path: str) -> Document:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(path, [f"no such file{known_files(path)}"]) from None
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
    options = search.get("options") if isinstance(search := raw.get("search"), Mapping) else None
    if isinstance(options, Mapping):
        for (name, value), now in zip(options.items(), rename_options(options).items(), strict=True):
            if (name, value) != now:
                told = f"write {now[0]}: {now[1]} in place of {name}: {value}, which the next version refuses"
                logger.warning(f"search.options: {told}")


def _apply(raw: dict[str, Any], overrides: Sequence[str]) -> tuple[list[Place], list[str]]:
    """Set the values of overrides in `raw`; return their places, and the problems of those that cannot be set."""
    places: list[Place] = []
    problems: list[str] = []
    for override in overrides:
        path, _, text = override.partition("=")
        try:
            if "=" not in override or not all(path.split(".")):
                raise ValueError("expected the form a.b=value")
            value = _value_of(text)
            node, leaf, place = _find(raw, path)
        except ValueError as error:
            problems.append(f"--set {override}: {error}")
        else:
            node[leaf] = value
            places.append(place)
    return places, problems


def _value_of(text: str) -> Any:
    try:
        return read_yaml(text)
    except ValueError as error:
        raise ValueError(f"the value {text!r} is not YAML: {error}") from None


def _find(raw: dict[str, Any], path: str) -> tuple[Any, Any, Place]:
    """Return the section or list that holds a dotted path's value, the key or index there, and the whole place."""
    *parents, leaf = path.split(".")
    node: Any = raw
    place: list[str | int] = []
    for parent in parents:
        place.append(_key_in(node, parent))
        if isinstance(node, dict) and node.get(parent) is None:
            node[parent] = {}
        node = node[place[-1]]
        if not isinstance(node, dict | list):
            raise ValueError(f"{parent} is a value, not a section")
    place.append(_key_in(node, leaf))
    return node, place[-1], tuple(place)


def _key_in(node: Any, key: str) -> str | int:
    """Return the key itself in a section, and in a list the index of the item with that number or `name`."""
    if isinstance(node, dict):
        return key
    for index, item in enumerate(node):
        if key == str(index) or (isinstance(item, dict) and item.get("name") == key):
            return index
    names = [str(item.get("name", index)) for index, item in enumerate(node) if isinstance(item, dict)]
    raise ValueError(f"no item {key!r}; there are {', '.join(names) or len(node)}")


def _problems_of(error: ValidationError, raw: Any, origin_of: Callable[[Place], str]) -> list[str]:
    """Return one line for each problem that validating `raw` gave.

    Several errors at one place are the members of a union, none of which fits. An error around another one follows
    from it, or is the member of a union that was not meant.
    """
    by_path: dict[Place, list[Mapping[str, Any]]] = {}
    for problem in error.errors():
        by_path.setdefault(_path_in(raw, problem), []).append(problem)
    innermost = [one for one in by_path if not any(other[: len(one)] == one != other for other in by_path)]
    lines = []
    for path in innermost:
        origin = origin_of(path[:-1] if by_path[path][0]["type"] == "missing" else path)
        lines.append(f"{_name_of(path, raw)}{f' ({origin})' if origin else ''}: {_told(path, by_path[path])}")
    return lines


def _path_in(raw: Any, problem: Mapping[str, Any]) -> Place:
    """Return the keys and indices of a problem's location; its other parts are pydantic's names of union members."""
    path: list[str | int] = []
    for number, part in enumerate(problem["loc"], start=1):
        is_missing_key = problem["type"] == "missing" and number == len(problem["loc"])
        if is_missing_key or _has(raw, part):
            path.append(part)
            raw = None if is_missing_key else raw[part]
    return (*path, "method") if problem["type"] == "union_tag_invalid" else tuple(path)


def _has(raw: Any, part: str | int) -> bool:
    if isinstance(raw, Mapping):
        return part in raw
    return isinstance(raw, Sequence) and isinstance(part, int) and part < len(raw)


def _name_of(path: Place, raw: Any) -> str:
    """Return the path as `--set` takes it: a list item with a name goes by that name."""
    parts = []
    for part in path:
        raw = raw[part] if _has(raw, part) else None
        has_name = isinstance(part, int) and isinstance(raw, Mapping) and isinstance(raw.get("name"), str)
        parts.append(raw["name"] if has_name else str(part))
    return ".".join(parts) or "(top)"


def _told(path: Place, problems: Sequence[Mapping[str, Any]]) -> str:
    problem, kind, got = problems[0], problems[0]["type"], problems[0]["input"]
    if kind == "extra_forbidden":
        return f"unknown key; {_nearest(path, _keys_at(problem['loc'][:-1]))}"
    if kind == "missing":
        return "required, and not given"
    if kind == "value_error":
        return str(problem["msg"]).removeprefix("Value error, ")
    if kind == "union_tag_invalid":
        return unknown_method(str(problem["ctx"]["tag"]), [*METHODS, *PRESETS])
    texts = [_EXPECTED.get(one["type"], "{msg}").format(msg=one["msg"], **one.get("ctx", {})) for one in problems]
    shown = repr(got) if isinstance(got, str) else json.dumps(got, ensure_ascii=False)
    return f"got {shown:.80}; expected {' or '.join(dict.fromkeys(texts))}"


def _nearest(place: Place, known: Sequence[str]) -> str:
    key = str(place[-1])
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    here = ".".join(map(str, place))  # another method has this option
    elsewhere = [path for path in _all_paths(SearchConfig, "") if path.split(".")[-1] == key and path != here]
    if near or elsewhere:
        return f"did you mean {' or '.join(near or elsewhere)}?"
    return f"known keys: {', '.join(known) or 'none'}"


def _keys_at(location: Sequence[str | int]) -> list[str]:
    """Return the keys that the section at a location knows; the location names the member of a union."""
    model: type[BaseModel] = SearchConfig
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            model = model_in(model.model_fields[part].annotation) or model
        else:
            model = next((one for one in SECTIONS.values() if one.__name__ == part), model)
    return [key for key in model.model_fields if key != "config_dir"]


def _all_paths(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """Yield the dotted path of every key outside of lists."""
    for key, field in model.model_fields.items():
        yield f"{prefix}{key}"
        child = model_in(field.annotation)
        if child is not None and get_origin(field.annotation) is not tuple:
            yield from _all_paths(child, f"{prefix}{key}.")
