"""The undisturbed search that disturbed ones are compared with, run once."""

from __future__ import annotations

import pytest

from tests.faults.chaos import CONFIG, Undisturbed, run_undisturbed


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return run_undisturbed(CONFIG, tmp_path_factory.mktemp("undisturbed"))
