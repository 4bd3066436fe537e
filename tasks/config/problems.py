"""Validation errors as lines for a person: where, what came, what was expected, and the nearest known key."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from tasks.algorithm.methods import METHODS
from tasks.config.method import SECTIONS
from tasks.config.presets import PRESETS
from tasks.config.schema import SearchConfig
from tasks.config.section import NAME_PATTERN

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
    "too_short": "at least {min_length} item",
}


def problems_of(error: ValidationError, raw: Any, origin_of: Callable[[Place], str]) -> list[str]:
    """Return one line for each problem.

    Several errors at one place are the members of a union, none of which fits. An error around another one follows
    from it, or is the member of a union that was not meant.

    Args:
        error: of validating `raw`.
        raw: the configuration as read.
        origin_of: returns where a part of `raw` comes from, such as `line 8`; empty: unknown.
    """
    by_path: dict[Place, list[Mapping[str, Any]]] = {}
    for problem in error.errors():
        by_path.setdefault(_path_in(raw, problem), []).append(problem)
    innermost = [one for one in by_path if not any(other[: len(one)] == one != other for other in by_path)]
    lines = []
    for path in innermost:
        is_missing = by_path[path][0]["type"] == "missing"
        origin = origin_of(path[:-1] if is_missing else path)
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
    problem = problems[0]
    kind, got = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        return f"unknown key; {_nearest(path, _keys_at(problem['loc'][:-1]))}"
    if kind == "missing":
        return "required, and not given"
    if kind == "value_error":
        return str(problem["msg"]).removeprefix("Value error, ")
    if kind == "union_tag_invalid":
        return f"got {problem['ctx']['tag']!r}; expected a method or preset; {_nearest_method(problem)}"
    expected = " or ".join(dict.fromkeys(_expected(one) for one in problems))
    shown = repr(got) if isinstance(got, str) else json.dumps(got, ensure_ascii=False)
    return f"got {shown:.80}; expected {expected}"


def _expected(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "string_pattern_mismatch" and problem["ctx"]["pattern"] == NAME_PATTERN:
        return "at most 64 letters, digits, and . _ - after the first"
    text = _EXPECTED.get(problem["type"])
    return text.format(**problem.get("ctx", {})) if text is not None else str(problem["msg"])


def _nearest_method(problem: Mapping[str, Any]) -> str:
    known = list(dict.fromkeys([*METHODS, *PRESETS]))
    near = difflib.get_close_matches(str(problem["ctx"]["tag"]), known, n=1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"


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


def model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the first pydantic model named in a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := model_in(part)) is not None), None)
