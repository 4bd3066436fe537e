from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.algorithm.costs import LedgerLine, total_by_kind
from tasks.algorithm.state import CheckpointKey
from tasks.contracts import EvaluationCost
from tasks.record.events import CheckpointSize, RoundDecided
from tasks.record.rollout import ProgressFile, read_progress, read_restarts
from tests.unit.made_events import decided, interval, restart

TOTALS = {"num_tokens": 0, "num_examples": 0, "flops": 0.0, "seconds": 0.0}


def trained(steps: int) -> dict[str, float]:
    """Return the cost of `steps` steps of 10 tokens, 2 rows, 1 kFLOP and half a second."""
    return {"num_tokens": 10 * steps, "num_examples": 2 * steps, "flops": 1e3 * steps, "seconds": 0.5 * steps}


def event(target: tuple[int, int] = (0, 4), **more: Any) -> RoundDecided:
    """Return a round with checkpoints at 0, 4 and 8, rolled back to step 4 by default."""
    intervals = tuple(interval(CheckpointKey(0, step), **trained(4)) for step in (4, 8))
    evaluation = EvaluationCost(num_tokens=7, num_examples=3, flops=5.0, seconds=0.25)
    return decided(0, target, intervals=intervals, evaluation=evaluation, **more)


def test_bytes_and_lost_training_count_to_their_kind_of_work() -> None:
    sizes = {0: 100, 4: 300, 8: 301}
    checkpoints = tuple(CheckpointSize(key=CheckpointKey(0, s), num_bytes=size) for s, size in sizes.items())
    restarts = (restart(**trained(2)), restart(**trained(1)))
    lines = event(checkpoints=checkpoints, restarts=restarts).ledger
    assert lines == (
        LedgerLine(0, "accepted", 40, 8, 4e3, 2.0, 400),
        LedgerLine(0, "discarded", 40, 8, 4e3, 2.0, 301),
        LedgerLine(0, "evaluation", 7, 3, 5.0, 0.25, 0),
        LedgerLine(0, "restart", 30, 6, 3e3, 1.5, 0),
    )
    assert total_by_kind([*lines, *lines])["discarded"] == LedgerLine(-1, "discarded", 80, 16, 8e3, 4.0, 602)


def test_a_rollback_before_the_round_accepts_no_training() -> None:
    assert [line.num_tokens for line in event(target=(-1, 4)).ledger] == [0, 80, 7, 0]


def test_lost_training_of_a_killed_worker_is_recorded_once(tmp_path: Path) -> None:
    """Killed at step 7, resumed at 4; killed again before its first step, and resumed at 4 again."""
    ProgressFile(tmp_path, 0, 9, "cpu").report(7, 1.0, 2.0, trained(7))
    ProgressFile(tmp_path, 4, 9, "cpu").note_restart(trained(4))
    ProgressFile(tmp_path, 4, 9, "cpu").note_restart(trained(4))
    (one,) = read_restarts(tmp_path)
    assert (one.reached_step, one.resumed_step, one.lost.model_dump()) == (7, 4, trained(3))


def test_a_kill_between_record_and_removal_counts_nothing_twice(tmp_path: Path) -> None:
    ProgressFile(tmp_path, 0, 9, "cpu").report(7, 1.0, 2.0, trained(7))
    line = read_progress(tmp_path)
    ProgressFile(tmp_path, 4, 9, "cpu").note_restart(trained(4))
    (tmp_path / "progress.json").write_text(json.dumps(line))
    ProgressFile(tmp_path, 4, 9, "cpu").note_restart(trained(4))
    assert len(read_restarts(tmp_path)) == 1


def test_a_preempted_worker_that_saved_lost_nothing(tmp_path: Path) -> None:
    """Its last report is of the step before the saved one."""
    ProgressFile(tmp_path, 0, 9, "cpu").report(6, 1.0, 2.0, trained(6))
    ProgressFile(tmp_path, 7, 9, "cpu").note_restart(trained(7))
    assert read_restarts(tmp_path)[0].lost.model_dump() == TOTALS


def test_the_time_left_counts_only_steps_of_this_worker(tmp_path: Path) -> None:
    progress = ProgressFile(tmp_path, 5, 9, "cpu")
    progress.report(7, 1.0, 2.0, trained(7))
    line = read_progress(tmp_path)
    assert line is not None
    assert line["seconds_left"] == pytest.approx(0.0, abs=5.0)
    assert progress.is_due(9)
    assert not progress.is_due(8)
