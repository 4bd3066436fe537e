"""`msft profile` of a search on real parts: its lines sum to the wall, and its counts stay low."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.integration.conftest import REPOSITORY
from tests.integration.test_commands import msft

SMOKE = REPOSITORY / "deployments" / "configs" / "smoke.yaml"


def test_a_profile_sums_to_the_wall_and_counts(prepare_root: Callable[[Path], Path], tmp_path: Path) -> None:
    root = prepare_root(tmp_path / "searches")
    (root / "cache").unlink()  # the tokens of other tests
    done = msft(
        "profile", str(SMOKE), "--set", f"output_root={root}", "--set", "search.max_epochs=2", "--json",
        home=tmp_path / "home",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert abs(sum(measured["seconds"].values()) - measured["wall_s"]) < 1e-3
    for line in ("imports", "preparation", "training steps", "scoring", "MLflow"):
        assert measured["seconds"][line] > 0, line
    counts = measured["counts"]
    assert counts["process starts"] <= 3
    assert counts["tokenizer calls a row"] <= 0.1
    assert counts["rows tokenized"] == 352
    assert counts["checkpoints"] == 5
    assert counts["optimizer steps"] == 28
    assert counts["MLflow requests"] > 0
    assert "wall" in done.stderr


def test_a_search_that_fails_is_told(tmp_path: Path) -> None:
    done = msft("profile", str(SMOKE), "--set", "model.tokenizer=none", home=tmp_path / "home")
    assert done.returncode == 1
    assert "profile of" in done.stdout + done.stderr
