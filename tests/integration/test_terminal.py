"""A person at a terminal sees bars, and a search that ends as well as one in a pipe."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

from tests.faults.prefect_pool import ROOT

LIMIT_S = 600.0
CONFIG = ROOT / "tests/faults/chaos.yaml"


def run_at_a_terminal(arguments: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run a command whose input and output are a terminal; return its exit code and all that was drawn there."""
    person, terminal = pty.openpty()
    drawn = bytearray()
    with subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env={**os.environ, **environment, "TERM": "xterm-256color"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    ) as process:
        os.close(terminal)
        ends_at = time.monotonic() + LIMIT_S
        while time.monotonic() < ends_at:
            if not select.select([person], [], [], 1.0)[0]:
                if process.poll() is not None:
                    break
                continue
            try:
                drawn += os.read(person, 65536)
            except OSError:  # Linux's word for a terminal that no process holds any more
                break
        else:
            process.kill()  # its code then tells that it did not end by itself
    os.close(person)
    return process.returncode, drawn.decode(errors="replace")


def test_a_search_at_a_terminal_draws_bars_and_ends(output_root: Path, prefect_server: str, tmp_path: Path) -> None:
    overrides = [f"output_root={output_root}", "search.max_rounds=1", "search.compute_budget_epochs=2"]
    arguments = ["flows.cli", "search", str(CONFIG)]
    arguments += [part for override in overrides for part in ("--set", override)]
    environment = {"PREFECT_API_URL": prefect_server, "HF_DATASETS_CACHE": str(tmp_path / "datasets")}
    code, drawn = run_at_a_terminal(arguments, environment)
    assert code == 0, drawn
    assert "training \x1b[" in drawn  # the bar, in colour
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)
    assert "trained 31 steps on cpu" in plain
    assert "champion: round 0" in plain
    assert "Traceback" not in plain
