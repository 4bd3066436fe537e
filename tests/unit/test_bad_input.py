"""Every kind of bad input names the input, got, expected and the fix; unusual good input works."""

from __future__ import annotations

import pytest

from tasks.errors import DataError, ModelError
from tests.unit import bad_config_cases, bad_file_cases, bad_model_cases, bad_row_cases
from tests.unit.bad_input import Place

CASES = {**bad_config_cases.CASES, **bad_file_cases.CASES, **bad_row_cases.CASES, **bad_model_cases.CASES}
UNUSUAL = {**bad_config_cases.UNUSUAL, **bad_file_cases.UNUSUAL, **bad_model_cases.UNUSUAL}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_with_its_message(place: Place, name: str) -> None:
    case = CASES[name]
    with pytest.raises(case.error) as caught:
        case.act(place)
    text = str(caught.value)
    labels = ("  got:      ", "  expected: ", "  fix:      ") if case.error in (DataError, ModelError) else ()
    assert [part for part in (*case.parts, *labels) if part not in text] == [], text


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_input_works(place: Place, name: str) -> None:
    act, expected = UNUSUAL[name]
    assert act(place) == expected
