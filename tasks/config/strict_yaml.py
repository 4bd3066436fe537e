"""YAML as a reader expects it: the core schema of YAML 1.2, and nothing that is lost without a word."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """Reads text, numbers, true and false, null, lists and sections; refuses a key that is given twice.

    PyYAML's own schema is 1.1: it makes true and false of `yes` and `no` (words of our options), a date of
    2024-01-01, 90 of 1:30, 15 of 017, and text of 1e-5.
    """

    def mapping(self, node: yaml.MappingNode) -> dict[Hashable, Any]:
        # Merged keys (<<) come in only after the check, since one's own key may replace a merged one.
        given: set[Hashable] = set()
        for key_node in (key for key, _ in node.value if key.tag != f"{_TAG}merge"):
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in given:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            given |= {key} if isinstance(key, Hashable) else set()
        self.flatten_mapping(node)
        return self.construct_mapping(node, deep=True)

    def integer(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node))
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)

    def real(self, node: yaml.ScalarNode) -> float:
        return float(str(self.construct_scalar(node)).lower().replace(".inf", "inf").replace(".nan", "nan"))

    def sequence(self, node: yaml.SequenceNode) -> list[Any]:
        return list(self.construct_sequence(node, deep=True))

    yaml_constructors = {  # noqa: RUF012
        f"{_TAG}null": yaml.SafeLoader.construct_yaml_null,
        f"{_TAG}bool": yaml.SafeLoader.construct_yaml_bool,
        f"{_TAG}str": yaml.SafeLoader.construct_yaml_str,
        f"{_TAG}int": integer,
        f"{_TAG}float": real,
        f"{_TAG}seq": sequence,
        f"{_TAG}map": mapping,
        None: yaml.SafeLoader.construct_undefined,
    }
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012


class _Dumper(yaml.SafeDumper):
    """Quotes what either version of YAML would read as something else than text."""

    def text(self, value: str) -> yaml.ScalarNode:
        # In any other style PyYAML writes these as they are, and reads them back as a line's end.
        has_odd_ends = any(end in value for end in "\x85\u2028\u2029")
        return self.represent_scalar(f"{_TAG}str", value, style='"' if has_odd_ends else None)


_Dumper.add_representer(str, _Dumper.text)

for _name, _pattern, _starts in (
    ("null", re.compile(r"~|null|Null|NULL|"), ("~", "n", "N", "")),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE"), tuple("tTfF")),
    ("int", _INT, tuple("-+0123456789")),
    ("float", _FLOAT, tuple("-+.0123456789")),
    ("merge", re.compile("<<"), ("<",)),
):
    # PyYAML matches from the start only, so the end is ours to state.
    _whole = re.compile(rf"(?:{_pattern.pattern})\Z")
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", _whole, _starts)
    _Dumper.add_implicit_resolver(f"{_TAG}{_name}", _whole, _starts)


def read_yaml(text: str) -> Any:
    """Return the value of one YAML document.

    Raises:
        ValueError: it is not YAML, gives a key twice, or holds a number or tag that cannot be read; says where.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, KeyError) as error:  # a KeyError is !!bool before another word
        raise ValueError(" ".join(str(error).replace('in "<unicode string>", ', "in ").split())) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def dump_yaml(value: Any) -> str:
    """Return YAML that `read_yaml`, and any other reader, gives back as `value`."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
