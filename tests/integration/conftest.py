"""A Prefect server for the session, and small searches."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("PREFECT_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from tasks.config.loading import load_config
from tasks.config.schema import SearchConfig

HUB_TOKEN = "hf_" + "Th1sIsNoT0ken"
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    with (
        prefect_test_harness(server_startup_timeout=120),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        yield


@pytest.fixture(scope="session")
def smoke() -> dict[str, Any]:
    """The smoke search as plain values, to be changed and validated again."""
    return load_config(str(REPOSITORY / "deployments" / "configs" / "smoke.yaml")).model_dump(mode="json")


@pytest.fixture(scope="session")
def searched(prefect_server: None, smoke: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The smoke search, run once for all tests that look at its end, by a user with a hub token: (config, result)."""
    from flows.search import msft_search

    config = SearchConfig.model_validate(smoke | {"output_root": str(tmp_path_factory.mktemp("searches"))})
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HF_TOKEN", HUB_TOKEN)
        return config, msft_search(config)
