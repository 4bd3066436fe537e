"""Journals of version 1 give the state, ledger, frames and pages that the code of that version gave.

Each folder of `journals` holds what such a search left, and under `expected` the outputs that were recorded with it:

- `smoke`: selected by loss, nothing excluded; `deployments/configs/smoke.yaml`.
- `quickstart`: selected by accuracy, with exclusions and rollbacks; `deployments/configs/quickstart.yaml`.
- `forward`: no rollback; sub-datasets leave and come back, a worker was killed, and a changed thread count accepted.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tasks.record.events import rounds_of
from tasks.record.journal import read_events, read_history
from tasks.record.status import read_summary
from tasks.record.view import read_view
from tasks.report.markdown import round_rows, tell_round, tell_search
from tasks.report.page import render_markdown
from tasks.reporting import frames_of

JOURNALS = Path(__file__).parent / "journals"
each_journal = pytest.mark.parametrize("name", ["smoke", "quickstart", "forward"])


def expected(name: str, file: str) -> str:
    return (JOURNALS / name / "expected" / file).read_text()


def plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


@each_journal
def test_a_version_1_journal_gives_the_same_state(name: str) -> None:
    assert plain(asdict(read_history(str(JOURNALS / name)).state)) == json.loads(expected(name, "state.json"))


@each_journal
def test_a_version_1_journal_gives_the_same_frames(name: str) -> None:
    frames = frames_of(read_view(str(JOURNALS / name)))
    for frame in ("curves", "decisions", "ledger", "scores"):
        assert frames[frame].to_csv(index=False) == expected(name, f"{frame}.csv"), frame


@each_journal
def test_a_version_1_journal_gives_the_same_summary(name: str) -> None:
    summary = read_summary(str(JOURNALS / name))
    summary = {key: value for key, value in summary.items() if key not in ("search", "directory")}
    assert plain(summary) == json.loads(expected(name, "summary.json"))


@each_journal
def test_a_version_1_journal_gives_the_same_pages(name: str) -> None:
    view = read_view(str(JOURNALS / name))
    told = [tell_search(view), *(tell_round(view, decided) for decided in view.history.rounds)]
    assert render_markdown(view) == expected(name, "report.md")
    assert "\n\n---\n\n".join(told) + "\n" == expected(name, "told.md")
    assert plain(round_rows(view)) == json.loads(expected(name, "rounds.json"))


def test_the_journals_cover_what_a_search_can_record() -> None:
    """Else the tests above would claim less than they seem to."""
    events = [event for name in ("smoke", "quickstart", "forward") for event in read_events(str(JOURNALS / name))]
    decided = rounds_of(events)
    assert {event.kind for event in events} == {
        "search_started",
        "round_decided",
        "environment_changed",
        "champion_crowned",
    }
    assert any(event.decision.exclude for event in decided)
    assert any(event.decision.include for event in decided)
    assert any(event.restarts for event in decided)
    assert all(event.mixture is not None for event in decided)


def test_a_version_1_journal_is_read_without_its_specifications(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_bytes((JOURNALS / "quickstart" / "journal.jsonl").read_bytes())
    assert read_history(str(tmp_path)).state == read_history(str(JOURNALS / "quickstart")).state
    assert all(event.mixture is None for event in rounds_of(read_events(str(tmp_path))))
    assert read_view(str(tmp_path)).unit == "training rows"
