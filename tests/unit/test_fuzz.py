"""Any configuration is read or refused with its problems, and one that was read survives being written."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.config.identity import dump_config
from tasks.config.loading import load_config, parse_config
from tasks.config.schema import SearchConfig
from tasks.config.sub_datasets import NAME_PATTERN
from tasks.errors import ConfigError
from tests.unit.bad_input import outcome
from tests.unit.fuzz_values import TEXTS, VALUES

VALID: dict[str, Any] = {
    "name": "good",
    "seed": 1,
    "output_root": "searches",
    "model": {"source": "base", "tokenizer": None, "lora": {"r": 4, "target_modules": ["q", "v"]}},
    "mixture": {
        "sub_datasets": [
            {"name": "first", "path": "first", "max_rows": {"train": 5}, "max_new_tokens": 4},
            {"name": "second", "hub": "a/b", "splits": {"validation": {"carve": 20}, "test": None}},
            {
                "name": "third",
                "path": "t",
                "template": {"prompt": "{q}", "completion": " {a}", "choices": ["{b}", "{a}"]},
            },
            {"name": "fourth", "synthetic": {"skill": "max", "wrong_labels": 0.25}},
        ],
        "proportions": {"first": 1, "second": 2.5, "third": 1, "fourth": 1},
    },
    "training": {"learning_rate": 1e-4, "batch_size": 8, "adam_betas": [0.9, 0.99], "schedule": "cosine"},
    "search": {"max_epochs": 4, "rule": "guarded"},
}
KEYS = TEXTS | st.integers() | st.none()


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value inside `value`."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from _places(inner, (*path, key))


PLACES = list(_places(VALID))


def _put(raw: dict[str, Any], place: tuple[Any, ...], value: Any, new_key: Any) -> None:
    """Replace the value at a place, or set another key beside it."""
    node: Any = raw
    for part in place[:-1]:
        node = node[part]
    key = place[-1] if new_key is ... or isinstance(node, list) else new_key
    node[key] = value


@given(changes=st.lists(st.tuples(st.sampled_from(PLACES[::-1]), VALUES, st.just(...) | KEYS), min_size=1, max_size=3))
def test_a_changed_configuration_is_read_or_refused(changes: list[tuple[Any, Any, Any]]) -> None:
    raw = copy.deepcopy(VALID)
    for place, value, new_key in changes:
        try:
            _put(raw, place, value, new_key)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change has removed the place
    _read_or_refuse(raw)


def _read_or_refuse(raw: Any) -> None:
    config, refusal = outcome(ConfigError, lambda: parse_config(raw, "fuzz"))
    if refusal:
        assert _tells_problems(refusal)
    else:
        assert isinstance(config, SearchConfig)
        _assert_survives_dumping(config)


def _tells_problems(refusal: str) -> bool:
    head, *problems = refusal.split("\n  - ")
    return " problem" in head and bool(problems) and all(problem.strip() for problem in problems)


def _assert_survives_dumping(config: SearchConfig) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "config.yaml")
        path.write_text(dump_config(config), encoding="utf-8")
        assert load_config(str(path)) == config


@given(raw=VALUES)
def test_any_value_as_a_configuration_is_refused(raw: Any) -> None:
    with pytest.raises(ConfigError):
        parse_config(raw, "fuzz")


TEXT = TEXTS.filter(bool)
LEGAL = st.fixed_dictionaries(
    {
        ("name",): st.from_regex(NAME_PATTERN, fullmatch=True),
        ("seed",): st.integers(0, 2**32 - 1),
        ("model", "source"): TEXT,
        ("model", "lora", "dropout"): st.floats(0, 1, exclude_max=True),
        ("mixture", "sub_datasets", 0, "path"): TEXT,
        ("mixture", "sub_datasets", 0, "splits"): st.fixed_dictionaries({"train": TEXT, "test": st.none() | TEXT}),
        ("mixture", "sub_datasets", 2, "template", "answer"): st.none() | st.just("{a}") | st.text("xyz#: \n"),
        ("mixture", "proportions", "first"): st.floats(0, exclude_min=True, allow_infinity=False),
        ("training", "learning_rate"): st.floats(0, exclude_min=True, allow_infinity=False),
        ("training", "threads"): st.none() | st.integers(1),
        ("training", "trainable_layers"): st.just("all") | st.integers(1),
        ("tracking",): st.fixed_dictionaries({"uri": st.none() | TEXT, "experiment": TEXT}),
    }
)


@given(values=LEGAL)
def test_a_legal_configuration_survives_dumping(values: dict[tuple[Any, ...], Any]) -> None:
    raw = copy.deepcopy(VALID)
    for place, value in values.items():
        _put(raw, place, value, ...)
    _assert_survives_dumping(parse_config(raw, "fuzz"))


# Ends of a line to YAML, which PyYAML by itself writes so that they come back as a space; texts like numbers.
@pytest.mark.parametrize("text", ["\x85", "\u2028", "1e5", "0x1f", "0o7", "yes", "2024-01-01", "<<", "null", "\ufeff"])
def test_a_text_survives_dumping_as_text(text: str) -> None:
    raw = copy.deepcopy(VALID)
    raw["model"]["source"] = raw["mixture"]["sub_datasets"][0]["path"] = text
    _assert_survives_dumping(parse_config(raw, "fuzz"))


@given(
    key=st.sampled_from([".".join(map(str, place)) for place in PLACES]) | st.lists(TEXTS, max_size=3).map(".".join),
    separator=st.sampled_from(["="] * 8 + [".", ".x="]),
    value=TEXTS
    | st.floats().map(str)
    | st.integers().map(str)
    | st.sampled_from(["3", "0.5", "null", "[", "{a: 1, a: 2}", "&a [*a]", "!!int x"]),
)
def test_an_override_is_taken_or_refused(key: str, separator: str, value: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "config.yaml")
        path.write_text(dump_config(parse_config(VALID, "fuzz")), encoding="utf-8")
        config, refusal = outcome(ConfigError, lambda: load_config(str(path), [f"{key}{separator}{value}"]))
    assert isinstance(config, SearchConfig) or _tells_problems(refusal)


@given(content=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_as_a_configuration_file_are_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "config.yaml")
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"config\.yaml: "):
            load_config(str(path))
