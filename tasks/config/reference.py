"""Write the configuration's reference, this folder's README.md, from the models: `python -m tasks.config.reference`."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tasks.config.method import SECTIONS, Options, StrategyConfig
from tasks.config.presets import PRESETS
from tasks.config.schema import SearchConfig
from tasks.config.sub_datasets import model_in

README = Path(__file__).with_name("README.md")
_HEAD = """# Configuration

| file | contents |
|---|---|
| `schema.py` | `SearchConfig` and its sections |
| `accelerate_file.py` | the check of an Accelerate config file |
| `sub_datasets.py` | base class of sections; one sub-dataset: source, splits, template, metric |
| `method.py` | the section `search`, and the options of each method |
| `presets.py` | presets: methods with settings, by name |
| `loading.py` | reads a file and `--set` overrides; validation errors as lines for a person |
| `identity.py` | settings that make two configurations one search, its id, where two differ; a configuration as YAML |
| `strict_yaml.py` | YAML 1.2 by ruamel.yaml, strict |
| `reference.py` | writes the rest of this page from the models: `python -m tasks.config.reference` |

`msft search FILE --print-config` prints all values of a file and marks defaults; the output is a configuration file
itself. `--set section.key=value` replaces one value; a sub-dataset goes by its name
(`--set mixture.sub_datasets.NAME.max_rows.train=100`). Types are strict: `yes` is text, `'16'` is text, `16` is also a
fraction.

A configuration is refused with all of its problems, or takes effect as written. Keys without a default are required.
"""


def reference() -> str:
    """Return the page."""
    lines = [_HEAD, *_section(SearchConfig, ""), *_options(), *_presets()]
    return "\n".join(lines).rstrip() + "\n"


def _section(model: type[BaseModel], path: str) -> Iterator[str]:
    yield from (f"## {path or 'Top level'}", "", " ".join((model.__doc__ or "").split()), "")
    yield from ("| key | type | default | |", "|---|---|---|---|")
    inner: dict[type[BaseModel], str] = {}
    for name, field in model.model_fields.items():
        where = f"{path}.{name}" if path else name
        if where == "config_dir":
            continue
        part = StrategyConfig if where == "search" else model_in(field.annotation)
        if part is not None and part is not Options:
            inner.setdefault(part, where)
        yield _row(name, f"`{'section' if where == 'search' else _type(field.annotation)}`", field)
    yield ""
    for part, where in inner.items():
        yield from _section(part, where)


def _options() -> Iterator[str]:
    for section in dict.fromkeys(SECTIONS.values()):
        methods = [method for method, one in SECTIONS.items() if one is section]
        options = type(section.model_fields["options"].default)
        yield from (f"## search.options of {', '.join(f'`{method}`' for method in methods)}", "")
        if not options.model_fields:
            yield from ("None.", "")
            continue
        yield from ("| option | type | default | |", "|---|---|---|---|")
        for name, field in options.model_fields.items():
            yield _row(name, f"`{_type(field.annotation)}`", field)
        yield ""


def _presets() -> Iterator[str]:
    yield from (
        "## Presets",
        "",
        "A preset is a value of `search.method` and of `msft compare --methods`. As `search.method` it expands to its "
        "method and settings, and values that the file gives itself win, with a warning; `msft compare` replaces the "
        "file's values. A name that is a method too means, as `search.method`, the method alone.",
        "",
        "| preset | method | | settings |",
        "|---|---|---|---|",
    )
    for name, preset in PRESETS.items():
        settings = "; ".join(
            f"`{path}`: default" if value is None else f"`{path}: {_yaml(value)}`"
            for path, value in preset.settings.items()
        )
        yield f"| `{name}` | `{preset.method}` | {preset.summary} | {settings} |"


def _row(name: str, kind: str, field: FieldInfo) -> str:
    limits = [
        f"{sign} {getattr(item, limit)}"
        for item in field.metadata
        for limit, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if getattr(item, limit, None) is not None
    ]
    shown = "**required**" if field.is_required() else ""
    if not field.is_required() and not isinstance(field.default, BaseModel):
        shown = f"`{_yaml(field.default)}`"
    cells = [f"`{name}`", ", ".join([kind, *limits]), shown, field.description or ""]
    return f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |"


def _yaml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _type(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(parts[0])
    if origin in (Union, types.UnionType):
        return " or ".join(_type(part) for part in parts)
    if origin is Literal:
        return " or ".join(str(part) for part in parts)
    if origin is tuple:
        return f"list of {_type(parts[0])}" if Ellipsis in parts else f"{len(parts)} × {_type(parts[0])}"
    if origin is dict:
        return f"{_type(parts[0])}: {_type(parts[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    names = {type(None): "null", str: "text", int: "whole number", float: "number", bool: "true or false"}
    return "any" if annotation is Any else names.get(annotation, annotation.__name__)


if __name__ == "__main__":
    README.write_text(reference(), encoding="utf-8")
