"""`msft status`, `resume` and `doctor` on search directories written by the tests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks.algorithm.state import Champion, CheckpointKey
from tasks.commands.doctor import (
    RunningFlow,
    check_disk,
    check_flow_runs,
    check_packages,
    check_prefect,
    check_python,
    check_searches,
    check_tracking,
    check_workers,
)
from tasks.config.identity import dump_config, search_id_of
from tasks.config.loading import parse_config
from tasks.config.schema import SearchConfig
from tasks.errors import ConfigError, OtherSearchError, SearchNotFoundError
from tasks.record.journal import append_event
from tasks.record.ownership import own_directory
from tasks.record.rollout import ProgressFile
from tasks.record.status import find_search, list_searches, resumed_config, status_of
from tests.unit.made_events import crowned, decided, started

NONE = {"num_tokens": 0.0, "num_examples": 0.0, "flops": 0.0, "seconds": 0.0}


def config_in(root: Path, name: str = "mine", **sections: Any) -> SearchConfig:
    parts = [{"name": part, "path": part} for part in "ab"]
    base = {"name": name, "model": {"source": "none"}, "mixture": {"sub_datasets": parts}}
    base |= {"search": {"max_epochs": 4}, "output_root": str(root), "config_dir": "/"}
    return parse_config(base | sections, "test")


def begin(root: Path, config: SearchConfig) -> Path:
    """Write the files of a search that has started."""
    directory = root / f"{config.name}-{search_id_of(config)}"
    (directory / "rounds" / "000").mkdir(parents=True)
    (directory / "config.yaml").write_text(dump_config(config))
    append_event(str(directory), started(search_id=search_id_of(config), config=config.model_dump(mode="json")))
    return directory


def decide(directory: Path, stop_reason: str = "") -> None:
    """Put its first round on record: `a` was excluded at step 4."""
    champion = Champion(CheckpointKey(0, 4), 0.375)
    event = decided(0, (0, 4), exclude=("a",), examples=40, stop_reason=stop_reason, champion=champion)
    append_event(str(directory), event)


def test_status_of_an_interrupted_search(tmp_path: Path) -> None:
    directory = begin(tmp_path, config_in(tmp_path))
    decide(directory)
    (directory / "rounds" / "001").mkdir()
    ProgressFile(directory / "rounds" / "001", 0, 30, "cpu").report(12, 1.0, 2.0, NONE)
    one = status_of(str(directory))
    assert (one.condition, one.owner, one.round, one.progress) == ("resumable", None, 1, (12, 30))
    assert (one.active, one.excluded, one.champion) == (("b",), ("a",), "round 0 step 4")
    assert (one.champion_score, one.max_epochs, one.last_event) == (0.375, 4.0, "round_decided")


def test_an_owned_search_is_running_and_names_its_process(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    directory = begin(tmp_path, config)
    with own_directory(config):
        one = status_of(str(directory))
    assert one.condition == "running"
    assert one.owner is not None
    assert one.owner.startswith("process ")
    assert status_of(str(directory)).condition == "resumable"


def test_a_torn_journal_hides_no_other_search(tmp_path: Path) -> None:
    finished = begin(tmp_path, config_in(tmp_path))
    decide(finished, "spent")
    append_event(str(finished), crowned())
    torn = begin(tmp_path, config_in(tmp_path, "torn"))
    (torn / "journal.jsonl").write_text("{}\n")
    (tmp_path / "new-1234" / "rounds").mkdir(parents=True)
    (tmp_path / "cache").mkdir()
    conditions = {one.search.partition("-")[0]: one.condition for one in list_searches(str(tmp_path))}
    assert conditions == {"mine": "finished", "torn": "unreadable", "new": "not begun"}
    assert status_of(str(finished)).stop_reason == "spent"


def test_a_search_is_found_by_directory_id_or_prefix(tmp_path: Path) -> None:
    one = begin(tmp_path, config_in(tmp_path, "one"))
    for name in ("two", "twofold"):
        begin(tmp_path, config_in(tmp_path, name))
    assert find_search("elsewhere", str(one)) == find_search(str(tmp_path), "on") == str(one)
    assert find_search(str(tmp_path), one.name.rsplit("-", 1)[1]) == str(one)
    with pytest.raises(SearchNotFoundError, match=r"several searches begin so; there are two-.*twofold-"):
        find_search(str(tmp_path), "tw")
    with pytest.raises(SearchNotFoundError, match="no such search; there is one-"):
        find_search(str(tmp_path), "three")


def test_a_moved_search_resumes_with_its_own_values(tmp_path: Path) -> None:
    config = config_in(tmp_path / "old", search={"max_epochs": 4, "min_delta": 0.125})
    moved = begin(tmp_path / "old", config).rename(tmp_path / "moved")
    resumed = resumed_config(str(moved), ["training.threads=1"])
    assert resumed.output_root == str(tmp_path)
    assert (resumed.search.min_delta, resumed.training.threads) == (0.125, 1)
    assert search_id_of(resumed) == search_id_of(config)
    with pytest.raises(OtherSearchError, match=r"search\.min_delta: was 0.125, is 0.25"):
        resumed_config(str(moved), ["search.min_delta=0.25"])


def test_resume_needs_a_started_search_and_its_password(tmp_path: Path) -> None:
    (tmp_path / "new-1234" / "rounds").mkdir(parents=True)
    with pytest.raises(ConfigError, match="has not begun"):
        resumed_config(str(tmp_path / "new-1234"), [])
    secret = config_in(tmp_path, tracking={"uri": "postgresql://me:secret@host/db"})
    directory = begin(tmp_path, secret)
    with pytest.raises(ConfigError, match="stored without its password"):
        resumed_config(str(directory), [])
    again = resumed_config(str(directory), ["tracking.uri=postgresql://me:secret@host/db"])
    assert again.tracking.uri == "postgresql://me:secret@host/db"


def test_doctor_reports_interrupted_searches_and_their_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = begin(tmp_path, config_in(tmp_path))
    monkeypatch.chdir(tmp_path)
    search_id = directory.name.rpartition("-")[2]
    (left,) = check_searches(list_searches(str(tmp_path)), {search_id: "RUNNING"})
    assert (left.verdict, left.fix) == ("warn", f"msft resume {directory.name}")
    assert "while MLflow shows it as RUNNING" in left.finding
    (without,) = check_searches(list_searches(str(tmp_path)), {search_id: "KILLED"})
    assert "MLflow" not in without.finding


def test_doctor_reports_flow_runs_that_own_no_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [RunningFlow(id=name, name=f"search-{name}", since=None) for name in ("mine", "lost")]
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", "mine")
    with own_directory(config_in(tmp_path)):
        (left,) = check_flow_runs(runs, list_searches(str(tmp_path)), "searches")
    assert left.verdict == "warn"
    assert left.fix.startswith("prefect api POST /flow_runs/lost/set_state")
    assert "search-lost: Prefect shows it as RUNNING, but it owns no search in searches" in left.finding
    assert check_flow_runs([], [], "searches") == []
    (silent,) = check_flow_runs(None, [], "searches")
    assert "PREFECT_API_AUTH_STRING" in silent.fix


def test_doctor_reports_workers_without_a_search() -> None:
    gone = 2**22 + 1  # above Linux's largest process id; the id of an ended process may be reused
    sleeper = "import sys; print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", sleeper, "tasks.workers.train"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    for owner, is_left in ((gone, True), (psutil.Process().pid, False)):
        with subprocess.Popen(command, env={"MSFT_OWNER_PID": str(owner)}, **pipes) as worker:
            assert worker.stdout is not None
            worker.stdout.readline()  # Linux shows a process's arguments only a moment after its start
            (check,) = check_workers([psutil.Process(worker.pid)])
            assert worker.stdin is not None
            worker.stdin.close()
        assert check.fix == (f"kill {worker.pid}" if is_left else "")


def test_doctor_reports_versions_out_of_range() -> None:
    assert check_python("3.10.2", ">=3.11").verdict == "fail"
    assert check_python("3.12.0", ">=3.11").verdict == "ok"
    checks = check_packages(["pydantic>=1", "pydantic<1", "no-such-package>=2", 'pytest<1; extra == "dev"'])
    assert [check.verdict for check in checks] == ["fail", "fail", "ok"]
    assert "pydantic" in checks[0].finding
    assert "no-such-package is not installed, expected >=2" in checks[1].finding
    assert checks[2].finding == "1 in their ranges"


def test_doctor_reports_unreachable_servers_without_passwords(tmp_path: Path) -> None:
    assert check_prefect(None).verdict == "ok"
    assert check_prefect("http://127.0.0.1:9/api").verdict == "fail"
    silent = check_tracking("http://me:secret@127.0.0.1:9")
    assert silent.verdict == "fail"
    assert "secret" not in json.dumps(silent.model_dump())
    assert check_tracking(f"sqlite:///{tmp_path / 'none.db'}").verdict == "ok"
    (tmp_path / "torn.db").write_text("not a database, but as long as the header of one" * 20)
    assert check_tracking(f"sqlite:///{tmp_path / 'torn.db'}").verdict == "fail"


@pytest.mark.parametrize(("free", "verdict"), [(10**9, "fail"), (10**10, "warn"), (10**11, "ok")])
def test_doctor_reports_little_disk_space(free: int, verdict: str) -> None:
    assert check_disk("searches", free).verdict == verdict
