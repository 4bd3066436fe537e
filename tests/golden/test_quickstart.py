"""The quickstart makes the decisions that are on record here, and on the same machine gives every digit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.config.loading import load_config
from tests.golden.record import record_of

HERE = Path(__file__).parent
QUICKSTART = HERE.parents[1] / "data" / "quickstart.yaml"


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    """The quickstart as it ended before the code was arranged in rooms."""
    record: dict[str, Any] = json.loads((HERE / "quickstart" / "decisions.json").read_text())
    return record


@pytest.fixture(scope="module")
def quickstart(
    prefect_server: str, prepare_root: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The quickstart as it ends now."""
    from flows.search import msft_search

    root = prepare_root(tmp_path_factory.mktemp("quickstart") / "searches")
    result = msft_search(load_config(str(QUICKSTART), [f"output_root={root}"]))
    return record_of(Path(result.directory).parent)


def without_scores(decisions: list[str]) -> list[str]:
    return [decision.partition(" champion_score=")[0] for decision in decisions]


def test_quickstart_repeats_its_golden_decisions(quickstart: dict[str, Any], golden: dict[str, Any]) -> None:
    assert without_scores(quickstart["decisions"]) == without_scores(golden["decisions"])
    for what in ("ledger", "batches"):
        assert quickstart[what] == golden[what], what


def test_quickstart_repeats_every_golden_digit(quickstart: dict[str, Any], golden: dict[str, Any]) -> None:
    """Another kind of CPU, or another version of a numeric package, may change the last digits."""
    if quickstart["environment"] != golden["environment"]:
        pytest.skip(f"recorded with {golden['environment']}; here {quickstart['environment']}")
    for what in golden:
        assert quickstart[what] == golden[what], what
