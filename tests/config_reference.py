"""Write the reference of the configuration from its models: `python -m tests.config_reference`."""

from __future__ import annotations

import json
import re
import types
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from tasks.algorithm.methods import METHODS, options_of
from tasks.config.schema import SearchConfig

REFERENCE = Path(__file__).parents[1] / "data" / "CONFIGURATION.md"
_HEAD = """# Every key of a search's YAML file

Written by `python -m tests.config_reference` from the models in `tasks/`; a test compares the two. `msft search FILE
--print-config` shows the values of a file, and which of them are defaults. A key without a default must be given;
`--set section.key=value` replaces one. What an option is for stands beside it, with the paper's section or the
measurement that its default comes from.
"""


def reference() -> str:
    """Return the page."""
    return "\n".join([_HEAD, *_section(SearchConfig, ""), *_options()]).rstrip() + "\n"


def _section(model: type[BaseModel], path: str) -> list[str]:
    lines = [f"## {path or 'top level'}", "", _plain(_first_paragraph(model)), ""]
    lines += ["| key | wanted | default | |", "|---|---|---|---|"]
    inner: list[tuple[type[BaseModel], str]] = []
    for name, field in model.model_fields.items():
        if not path and name == "config_dir":
            continue
        part = _model_in(field.annotation)
        where = f"{path}.{name}" if path else name
        if part is not None:
            inner.append((part, where))
        wanted = f"see `{where}` below" if part is not None else f"`{_type(field.annotation)}`"
        limits = ", ".join(_limits(field.metadata))
        default = "" if part is not None and field.default is PydanticUndefined else _default(field)
        lines.append(
            f"| `{name}` | {_plain(wanted + (f', {limits}' if limits else ''))} | {default} "
            f"| {_plain(field.description or '')} |"
        )
    lines.append("")
    for part, where in inner:
        lines += _section(part, where)
    return lines


def _options() -> list[str]:
    lines = ["## search.options, by search.method", "", "| method | option | default |", "|---|---|---|"]
    for method in METHODS:
        owner, names = options_of(method)
        assert is_dataclass(owner)
        defaults = {f.name: f.default for f in fields(owner) if f.default is not MISSING}
        hints = get_type_hints(owner)
        rows = [f"| `{method}` | `{n}`: `{_type(hints[n])}` | `{json.dumps(defaults[n])}` |" for n in names]
        lines += [_plain(row, keep_bars=True) for row in rows] or [f"| `{method}` | none | |"]
    return [*lines, "", "What each is for stands in the method's file in `tasks/algorithm/`."]


def _first_paragraph(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").strip().split("\n\n")[0].split())


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is dict:
        return None
    return next((m for part in get_args(annotation) if (m := _model_in(part)) is not None), None)


def _type(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(parts[0])
    if origin in (Union, types.UnionType):
        return " or ".join(_type(part) for part in parts)
    if origin is Literal:
        return " or ".join(json.dumps(part).strip('"') for part in parts)
    if origin is tuple:
        inner = [part for part in parts if part is not Ellipsis]
        return (
            f"list of {_type(inner[0])}" if len(inner) < len(parts) else f"{len(inner)} × {_type(inner[0])}"
        )
    if origin is dict:
        return f"{_type(parts[0])}: {_type(parts[1])}"
    names = {type(None): "null", str: "text", int: "whole number", float: "number", bool: "true or false"}
    return names.get(
        annotation, "any" if annotation is Any else getattr(annotation, "__name__", str(annotation))
    )


def _limits(metadata: list[Any]) -> list[str]:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return [
        f"{sign} {getattr(item, name):g}"
        for item in metadata
        for name, sign in signs.items()
        if getattr(item, name, None) is not None
    ]


def _default(field: Any) -> str:
    if field.default is PydanticUndefined:
        return "**required**"
    value = field.default.model_dump(mode="json") if isinstance(field.default, BaseModel) else field.default
    return "" if isinstance(value, dict) and value else f"`{json.dumps(value, ensure_ascii=False)}`"


def _plain(text: str, *, keep_bars: bool = False) -> str:
    text = re.sub(r"\s+", " ", text)
    return text if keep_bars else text.replace("|", "\\|")


if __name__ == "__main__":
    REFERENCE.write_text(reference(), encoding="utf-8")
