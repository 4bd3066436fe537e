"""MLflow on PostgreSQL, which checks the length of what SQLite takes whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.contracts import SearchRef
from tasks.errors import TrackingError
from tasks.record.paths import round_title
from tasks.registry.client import client_of, retry_for
from tasks.registry.runs import open_round_run, open_search_run
from tests.faults.team_servers import has_postgres, postgres

NAMES = [f"{letter * 63}{number}" for number, letter in enumerate("abcd")]


@pytest.mark.skipif(not has_postgres(), reason="PostgreSQL is not installed")
def test_postgresql_takes_the_runs_of_long_names(tmp_path: Path) -> None:
    with postgres() as server:
        uri = f"postgresql+psycopg://mlflow:{server.passwords['mlflow']}@127.0.0.1:{server.port}/mlflow"
        place = {"directory": str(tmp_path), "tracking_uri": uri, "outage_s": 0.0, "experiment_id": "", "run_id": ""}
        search = open_search_run(SearchRef(search_id="0a1b2c3d", name="n" * 64, **place), "msft", {}, is_new=True)
        run = client_of(uri).get_run(open_round_run(search, 3, NAMES))
        assert run.info.run_name == round_title(search, 3, NAMES)
        assert run.info.run_name.endswith("…]")
        with pytest.raises(TrackingError) as refused:
            retry_for(uri, 0.0, lambda: client_of(uri).create_run(search.experiment_id, run_name="n" * 251))
    assert "too long" in str(refused.value)
    assert "change what it refuses" in str(refused.value)
    assert "start it" not in str(refused.value)
    assert server.passwords["mlflow"] not in str(refused.value)
