"""Read and write YAML by the core schema of YAML 1.2, with nothing lost silently."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.resolver import VersionedResolver

_TAG = "tag:yaml.org,2002:"
_MAX_DEPTH = 50
# With every alias unfolded, a text being one value more for each 100 letters; data/real20.yaml has 700.
_MAX_NODES, _LETTERS = 100_000, 100
# A text that every YAML reader takes for text without quotes, unless it is one of the words.
_PLAIN = re.compile(r"[A-Za-z/_](?:[A-Za-z0-9 _./+-]*[A-Za-z0-9_./+-])?")
_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


# The core schema's plain scalars: the tag, its pattern, and the letters that may begin it.
_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
_SCALARS = (
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    ("bool", r"true|True|TRUE|false|False|FALSE", tuple("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", tuple("-+0123456789")),
    ("float", _FLOAT, tuple("-+.0123456789")),
    ("merge", "<<", ("<",)),
)
_BY_FIRST_LETTER = {
    letter: [
        (f"{_TAG}{tag}", re.compile(rf"(?:{pattern})\Z")) for tag, pattern, letters in _SCALARS if letter in letters
    ]
    for letter in ("", *"~nNtTfF-+.0123456789<")
}


class _CoreSchema(VersionedResolver):
    """Resolves plain scalars as YAML 1.2 does.

    ruamel.yaml goes beyond it: it makes a date of 2024-01-01, 1000 of 1_000 and 2 of 0b10.
    """

    @property
    def versioned_resolver(self) -> Any:
        return _BY_FIRST_LETTER


class _Constructor(SafeConstructor):
    """Builds the core schema's types only; ruamel.yaml refuses a key that is given twice."""

    def scalar(self, node: ScalarNode) -> bool | int | float:
        text = str(node.value).lower()
        try:
            if node.tag == f"{_TAG}bool":
                return {"true": True, "false": False}[text]
            if node.tag == f"{_TAG}float":
                return float(text.replace(".inf", "inf").replace(".nan", "nan"))
            return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        except (KeyError, ValueError) as error:  # a tag before another word, or a number of too many digits
            raise _refusal(f"cannot read a value: {error}", node) from None

    yaml_constructors = {  # noqa: RUF012
        f"{_TAG}null": SafeConstructor.construct_yaml_null,
        f"{_TAG}bool": scalar,
        f"{_TAG}str": SafeConstructor.construct_yaml_str,
        f"{_TAG}int": scalar,
        f"{_TAG}float": scalar,
        f"{_TAG}seq": SafeConstructor.construct_yaml_seq,
        f"{_TAG}map": SafeConstructor.construct_yaml_map,
        None: SafeConstructor.construct_undefined,
    }


@dataclass(frozen=True)
class Document:
    """One YAML document: its value, and where each part of it stands."""

    value: Any
    root: Node | None

    def line_of(self, path: Sequence[str | int]) -> int | None:
        """Return the line, from 1, of the value or key at `path`; None: there is no such part, or it is the whole."""
        node, mark = self.root, None
        for part in path:
            if isinstance(node, MappingNode):
                found = [pair for pair in node.value if pair[0].value == part]
                if not found:
                    return None
                mark, node = found[0][0].start_mark, found[0][1]
            elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                mark = node.start_mark
            else:
                return None
        return mark.line + 1 if mark is not None else None


def read_document(text: str) -> Document:
    """Return one YAML document.

    Raises:
        ValueError: it is not YAML, has a key twice or a key that is not text, holds a number or tag that cannot be
            read, is nested too deeply or unfolds to too many values; names the line.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver, yaml.Constructor = _CoreSchema, _Constructor
    yaml.max_depth = _MAX_DEPTH
    yaml.composer.warn_double_anchors = False
    try:
        root = yaml.compose(text)
        if root is None:
            return Document(None, None)
        _check(root, {})
        return Document(yaml.constructor.construct_document(root), root)
    except YAMLError as error:
        raise ValueError(_told(error)) from None


def read_yaml(text: str) -> Any:
    """Return the value of `read_document`."""
    return read_document(text).value


def dump_yaml(value: Any) -> str:
    """Return YAML that `read_yaml`, and a reader of YAML 1.1, give back as `value`; comments of a CommentedMap stay."""
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.width = 1_000_000  # no line is folded
    yaml.indent(mapping=2, sequence=2, offset=0)
    stream = StringIO()
    yaml.dump(value, stream)
    return stream.getvalue().removesuffix("...\n")


class _Representer(RoundTripRepresenter):
    """Quotes what either version of YAML would read as something else than text, and repeats what aliases share."""

    def text(self, value: str) -> ScalarNode:
        is_plain = _PLAIN.fullmatch(value) and value.lower() not in _WORDS
        return self.represent_scalar(f"{_TAG}str", value, style=None if is_plain else '"')

    def real(self, value: float) -> ScalarNode:
        node: ScalarNode = RoundTripRepresenter.represent_float(self, value)
        if "e" in node.value and "." not in node.value:
            node.value = node.value.replace("e", ".0e")  # YAML 1.1 takes 1e-05 for text
        return node

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Representer.add_representer(str, _Representer.text)
_Representer.add_representer(float, _Representer.real)


def _check(node: Node, sizes: dict[int, int]) -> int:
    """Return the number of values that a node unfolds to; `sizes` has those known, 0 for nodes in progress."""
    if id(node) not in sizes:
        sizes[id(node)] = 0
        size = 1 + sum(_check(child, sizes) for child in _children(node))
        if isinstance(node, ScalarNode):
            size += len(node.value) // _LETTERS
        if size > _MAX_NODES:
            raise _refusal(f"more than {_MAX_NODES:,} values", node)
        sizes[id(node)] = size
    if sizes[id(node)] == 0:
        raise _refusal("a value contains itself", node)
    return sizes[id(node)]


def _children(node: Node) -> list[Node]:
    if isinstance(node, SequenceNode):
        return list(node.value)
    if not isinstance(node, MappingNode):
        if any("\ud800" <= letter <= "\udfff" for letter in node.value):
            raise _refusal("half of a surrogate pair is no character", node)
        return []
    for key, _ in node.value:
        if str(key.tag) not in (f"{_TAG}str", f"{_TAG}merge"):
            got = f"{key.value:.40}" if isinstance(key, ScalarNode) else "a list or mapping"
            raise _refusal(f"expected text as a key, got {got}; quote it", key)
    return [part for pair in node.value for part in pair]


def _refusal(problem: str, node: Node) -> ConstructorError:
    return ConstructorError(None, None, problem, node.start_mark)


def _told(error: YAMLError) -> str:
    """Return what is wrong and where, in one line."""
    if not isinstance(error, MarkedYAMLError):
        return " ".join(str(error).replace('in "<unicode string>", ', "").split())
    mark = error.problem_mark or error.context_mark
    place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    if isinstance(error, MaxDepthExceededError):
        return f"nested more than {_MAX_DEPTH} deep{place}"
    return f"{', '.join(part for part in (error.context, error.problem) if part)}{place}"
