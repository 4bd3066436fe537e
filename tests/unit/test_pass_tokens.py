"""The tokens of a pass are measured once for each device, and are what its memory holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.workers.training.memory import fitting_tokens, on_record


def test_passes_fill_the_free_memory_but_for_a_margin() -> None:
    """A base of 3 MB and 2 kB a token: 0.85 of 100 MB hold 41,000."""
    assert fitting_tokens(lambda tokens: 3_000_000 + 2_000 * tokens, 100_000_000) == 41_000


@pytest.mark.parametrize(("free", "tokens"), [(0, 2048), (10**15, 65536)])
def test_passes_have_a_least_and_a_most(free: int, tokens: int) -> None:
    assert fitting_tokens(lambda tokens: 2_000 * tokens, free) == tokens


def test_a_search_that_is_started_again_measures_no_more(tmp_path: Path) -> None:
    path, measured = tmp_path / "pass_tokens.json", iter([5000, 9000])
    for name, writes, expected in (("L4", False, 5000), ("H100", True, 9000), ("H100", True, 9000)):
        assert on_record(path, name, lambda: next(measured), writes=writes) == expected
