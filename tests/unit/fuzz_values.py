"""Values to try parsers with: arbitrary ones, and words that mean something to ours."""

from __future__ import annotations

from hypothesis import strategies as st

# Words that our keys and values know, which arbitrary text would hardly ever hit.
WORDS = st.sampled_from(
    [
        "name",
        "train",
        "carve",
        "null",
        "{q}",
        "{",
        "{0}",
        "{}",
        "..",
        "a/b",
        "1e5",
        "yes",
        "~",
        "=",
        "<<",
        "0o7",
        "2024-01-01",
    ]
)
TEXTS = WORDS | st.text(max_size=8)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)
