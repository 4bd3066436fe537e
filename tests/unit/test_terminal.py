"""A command prints all its log records, only errors, or on stderr next to a JSON result."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from tasks.report.messages import stage_progress, tell, tell_table
from tasks.report.tables import Table, in_markdown, names, numbers
from tasks.report.terminal import fail, log_to_terminal

TABLE = Table((*names("sub-dataset"), *numbers("at end")), [("a|b", "0.500"), ("<i>", "12.000")], {1: "mean"})


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    log_to_terminal()


def test_a_terminal_and_a_page_get_one_text(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    log_to_terminal()
    logger = logging.getLogger("tasks")
    logger.addHandler(caplog.handler)  # as Prefect adds its own
    tell(("decision", "bold"), " of round 0: [x] leaves")
    tell_table(TABLE)
    logger.removeHandler(caplog.handler)
    table = "sub-dataset  at end\na|b           0.500\n<i>          12.000"
    assert [record.getMessage() for record in caplog.records] == ["decision of round 0: [x] leaves", table]
    printed = capsys.readouterr().out
    assert "decision of round 0: [x] leaves" in printed
    assert all(line.rstrip() in printed for line in table.splitlines())


def test_quiet_prints_warnings_and_errors_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_terminal(quiet=True)
    tell("not this")
    logging.getLogger("tasks.training").warning("few rows")
    fail("no such search")
    assert capsys.readouterr() == ("", "warning: few rows\nerror: no such search\n")


def test_json_leaves_stdout_to_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    give = log_to_terminal(as_json=True).give
    tell("a line")
    give({"rounds": 3})
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == ({"rounds": 3}, "a line\n")
    fail("no such search")
    assert json.loads(capsys.readouterr().out) == {"error": "no such search"}


def test_a_pipe_gets_a_line_for_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_terminal()
    with stage_progress("training", 40) as show:
        for step in range(1, 41):
            show(step, "fast")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines] == [f"{step}/40," for step in (1, *range(4, 41, 4))]


def test_a_bar_takes_a_total_that_is_known_late(caplog: pytest.LogCaptureFixture) -> None:
    log_to_terminal()
    logging.getLogger("tasks").propagate = True
    with stage_progress("preparing", 1) as show:
        show(5, total=20)
        show(10, total=20)
    bars = [record.bar for record in caplog.records if getattr(record, "bar", None)]
    assert list(dict.fromkeys((bar.done, bar.total) for bar in bars)) == [(5, 20), (10, 20)]


def test_a_table_is_escaped_in_markdown() -> None:
    assert TABLE.markdown().splitlines()[1:] == ["| --- | ---: |", "| a\\|b | 0.500 |", "| **\\<i\\>** | **12.000** |"]
    assert in_markdown("a\n*b*") == "a \\*b\\*"
