"""Small searches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.config.loading import load_config
from tasks.config.schema import SearchConfig
from tests.benchmarks.count_requests import counting, summary_of

HUB_TOKEN = "hf_" + "Th1sIsNoT0ken"
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def smoke() -> dict[str, Any]:
    """The smoke search as plain values, to be changed and validated again."""
    return load_config(str(REPOSITORY / "deployments" / "configs" / "smoke.yaml")).model_dump(mode="json")


@pytest.fixture
def output_root(prepare_root: Callable[[Path], Path], tmp_path: Path) -> Path:
    """A prepared output root of the test's own."""
    return prepare_root(tmp_path / "searches")


@pytest.fixture(scope="session")
def counted_search(
    prefect_server: str, smoke: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[SearchConfig, Any, dict[str, int]]:
    """The smoke search with its result and the counts of `tests.benchmarks.count_requests`."""
    from flows.search import msft_search

    config = SearchConfig.model_validate(smoke | {"output_root": str(tmp_path_factory.mktemp("searches"))})
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HF_TOKEN", HUB_TOKEN)
        with counting() as counts:
            result = msft_search(config)
        return config, result, summary_of(counts, Path(config.output_root))


@pytest.fixture(scope="session")
def searched(counted_search: Any) -> Any:
    """The smoke search, run once for all tests that look at its end, by a user with a hub token: (config, result).

    It makes its store and its base model itself.
    """
    return counted_search[:2]
