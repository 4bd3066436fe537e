"""Numbers are compared as numbers, and a label that is not one number is refused."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.algorithm.answers import number_in, single_number_in
from tasks.errors import DataError
from tests.unit.bad_input import Place


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 3 + 4 = 7\n#### 7", 7),
        ("#### $1,234.50", "1234.5"),
        ("he has 3, then 12.", 12),
        ("#### -5 apples", -5),
        ("7.0", 7),
        ("none", None),
        ("####", None),
        ("3 + 4 = 7\n#### 7\n\nQuestion: and 5 + 6?\nAnswer: 11\n#### 11", 7),  # runs on
        ("#### Step 1: add\n3 + 4 = 7\n#### 7", 7),  # a heading
        ("3 + 4 = 7\n#### The answer is 7, not 8", 7),
        ("one\n####\n$7", 7),
        ("48/2 = <<48/2=24>>24", 24),
        ("<answer>**42**</answer>", 42),
        ("It ends at 10:30", None),
    ],
)
def test_the_number_of_a_generation(text: str, number: int | str | None) -> None:
    assert number_in(text) == (None if number is None else Decimal(number))


EQUAL = [
    ("1/2", "0.5"), ("1e3", "1000"), ("\u22125", "-5"), (".5", "0.5"), ("3/4", "6/8"), ("1 1/2", "1.5"),
    ("10 000", "10000"), ("10\u202f000", "10,000"), ("$5", "5.00"), ("-$5", "$-5"), ("50%", "50"),
    ("12,34,567", "1234567"),
    ("1E+3", "1,000"), ("1/3", "2/6"), ("3 / 4", ".75"), ("5 apples", "5"), ("42.", "= 42"), ("+7", "7"), ("-0", "0"),
    ("\u20131,000.25", "-1000.25"),
]  # fmt: skip


@pytest.mark.parametrize(("label", "said"), EQUAL)
def test_one_number_written_in_two_ways_is_equal(label: str, said: str) -> None:
    assert single_number_in(label) == number_in(said) is not None


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("3/4", "3/8"), (".5", "5"), ("1e3", "1e6"), ("10 000", "10 500"), ("\u22125", "5"), ("1/3", "0.3333"),
        ("1/2", "1 1/2"), ("5", "1.5"), ("18", "2^18"), ("30", "10:30"), ("2", "1-2"), ("1500000", "1.5 million"),
        ("1234567890123456789012345678901", "1234567890123456789012345678902"),
    ],
)  # fmt: skip
def test_two_numbers_are_not_equal(label: str, said: str) -> None:
    assert single_number_in(label) is not None
    assert single_number_in(label) != number_in(said)


NOT_ONE = [
    "10:30", "1.000,50", "2^10", "2**10", "5\u00b2", "1\u00bd", "\u00bd", "1,5", "1,2,3", "3 or 4", "x = 3, y = 4",
    "3x + 4", "- 5", "10\u2082",
    "10-20", "$5-$10", "12%-15%", "2024-01-05", "1.2.3", "0x1F", "1_000", "1.5M", "5 thousand", "\u00b15", "\u221a16",
    "1/0",
    "10^{3}", "2:1", "three", "", "#### 10:30", "#### 3 or 4", "3 \u00d7 10^5", "1e99999999999999999999",
]  # fmt: skip


@pytest.mark.parametrize("answer", NOT_ONE)
def test_a_label_that_is_not_one_number_has_none(answer: str) -> None:
    assert single_number_in(answer) is None


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_label_that_is_not_one_number_is_refused(place: Place, split: str) -> None:
    rows = [
        {"prompt": f"v{index}", "completion": " a", "answer": answer} for index, answer in enumerate(["5", "10:30"])
    ]
    with pytest.raises(DataError) as caught:
        place.read({}, {f"{split}.jsonl": rows}, metric="numeric")
    assert f"{split} row 1" in str(caught.value)
    assert "'10:30', which is not one number" in str(caught.value)


@given(
    st.decimals(allow_nan=False, allow_infinity=False, places=3),
    st.sampled_from(["{:,}", "{}", "#### {:,}.", "${:,} a day"]),
)
def test_a_decimal_is_read_as_it_is_written(number: Decimal, form: str) -> None:
    text = form.format(number)
    assert number_in(text) == single_number_in(text) == number
