"""A generation has room for the longest answer of the split that is scored."""

from __future__ import annotations

import pytest

from tasks.data.base_model import prepare_base_model
from tasks.data.inputs import open_splits
from tests.unit.bad_input import Place


@pytest.mark.parametrize(
    ("validation", "test", "configured", "limits"),
    [("1", "1" * 40, None, (9, 48)), ("1" * 40, "1", None, (48, 48)), ("1", "1" * 40, 5, (5, 5))],
    ids=["longer in test", "longer in validation", "as configured"],
)
def test_a_generation_has_room_for_the_longest_answer(
    place: Place, validation: str, test: str, configured: int | None, limits: tuple[int, int]
) -> None:
    for split, text in {"train": "1", "validation": validation, "test": test}.items():
        place.write(f"data/{split}.jsonl", [{"prompt": split, "completion": text}])
    config = place.config({"name": "sub", "path": "data", "max_new_tokens": configured})
    (ref,) = place.prepare(config)
    (opened,) = open_splits(config, prepare_base_model(config), "test")
    assert (ref.max_new_tokens, opened.max_new_tokens) == limits


def test_dropped_rows_need_no_room(place: Place) -> None:
    rows = [{"prompt": f"v{text}", "completion": text} for text in ("1", "2" * 200)]
    assert place.read({"mixture": {"on_too_long": "drop"}}, {"validation.jsonl": rows}).max_new_tokens == 9
