"""A comparison's plan, its runner and its report, on made-up searches."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from pathlib import Path

import pytest
from tqdm import tqdm
from tqdm.contrib.concurrent import ensure_lock

from tasks.algorithm.state import CheckpointKey
from tasks.comparison.parallel import Arm, Outcome, lanes, run_side_by_side
from tasks.comparison.plots import plot_comparison, save_figure
from tasks.comparison.presets import METHODS
from tasks.comparison.report import runs_frame, scores_frame, sub_datasets_frame, summary_frame
from tasks.comparison.runs import find_all, plan_comparison, refuse_failures
from tasks.config.loading import change_config, search_id_of
from tasks.contracts import ChampionResult, CheckpointScores, EvaluationCost, SubDatasetScore
from tasks.errors import ConfigError, DifferentDataError, IncompleteComparisonError
from tasks.record.journal import append_event
from tasks.record.ownership import directory_of
from tasks.runtime import processes as launch
from tasks.runtime.gpu_slots import current_lane
from tests.unit.made_up_findings import arm_of, config_of, finding_of

THREE = [
    finding_of(method, seed, {"max": rate, "roman": 0.5}, flops=flops)
    for method, rate, flops in (("sft", 0.6, 1e12), ("msft", 0.9, 2e12))
    for seed in (1, 2, 3)
]


def test_every_method_fits_a_configuration_whatever_its_rule() -> None:
    for search in ({"min_delta": 0.02}, {"rule": "paper", "optimizer_on_rollback": "reset"}):
        # The paper's mode is what `msft` itself is in a file that says so.
        methods = [name for name in METHODS if not ("rule" in search and name == "msft_paper")]
        arms, _ = plan_comparison(config_of(search={"max_epochs": 4, **search}), methods, (1, 2), "")
        assert len({search_id_of(arm.config) for arm in arms}) == 2 * len(methods)
        assert {arm.config.search.max_epochs for arm in arms} == {4}


def test_a_method_changes_its_own_settings_and_the_seed_and_nothing_else() -> None:
    config = config_of(tracking={"uri": "postgresql://u:secret@h/db"})
    arms, control = plan_comparison(config, ("msft", "sft"), (7,), "")
    assert control == "sft"
    assert arms[0].config == config.model_copy(update={"seed": 7, "name": "tiny-msft"})
    assert (arms[1].config.search.method, arms[1].config.search.min_delta) == ("sft", 0.05)
    assert arms[1].config.tracking.uri == "postgresql://u:secret@h/db"


def test_the_papers_mode_takes_none_of_the_files_own_options() -> None:
    search = {"max_epochs": 4, "options": {"rehearsal": 0.1, "loss_guard": 0.05}}
    config = config_of(search=search, training={"device": "cpu", "ema": 0.9})
    (arm,), _ = plan_comparison(config, ("msft_paper",), (), "")
    assert (arm.config.search.options, arm.config.training.ema) == ({}, None)


def test_two_methods_that_are_one_search_here_are_refused() -> None:
    config = config_of(training={"device": "cpu", "ema": 0.99})
    with pytest.raises(ConfigError, match="sft and sft_ema are one and the same search"):
        plan_comparison(config, ("sft", "msft", "sft_ema"), (1, 2), "")


def test_the_control_is_sft_or_the_first_method_or_what_is_asked_for() -> None:
    assert plan_comparison(config_of(), (), (), "")[1] == "sft"
    assert plan_comparison(config_of(), ("msft_paper", "msft"), (), "")[1] == "msft_paper"
    assert plan_comparison(config_of(), ("msft_paper", "msft"), (), "msft")[1] == "msft"
    with pytest.raises(ConfigError, match="sft is not among the methods msft"):
        plan_comparison(config_of(), ("msft",), (), "sft")


def test_an_unknown_method_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="no method 'mstf'; there are sft, sft_ema, msft"):
        plan_comparison(config_of(), ("sft", "mstf"), (), "")


def test_none_puts_a_default_back_and_an_unknown_path_is_refused() -> None:
    changed = change_config(
        config_of(), {"search.min_delta": None, "mixture.sub_datasets.max.name": "m"}, "x"
    )
    assert changed.search.min_delta == 0.05
    assert changed.mixture.sub_datasets[0].name == "m"
    with pytest.raises(ConfigError, match=r"x: 1 problem\n.*training\.lr: unknown key"):
        change_config(config_of(), {"training.lr": 1}, "x")


def test_the_summary_holds_means_spreads_and_the_difference_to_the_control() -> None:
    summary = summary_frame(THREE, "sft").set_index("method")
    assert list(summary["mean"]) == pytest.approx([0.55, 0.7])
    assert list(summary["std"]) == pytest.approx([0, 0])
    assert summary.loc["msft", "difference"] == pytest.approx(0.15)
    assert 0.05 < summary.loc["msft", "low"] < 0.15 < summary.loc["msft", "high"] < 0.25
    assert summary.loc["sft", ["difference", "low", "high"]].isna().all()
    assert list(summary["flops"]) == [1e12, 2e12]
    assert set(summary["num_seeds"]) == {3}


def test_each_sub_dataset_has_its_own_difference() -> None:
    frame = sub_datasets_frame(THREE, "sft").set_index(["method", "sub_dataset"])
    assert frame.loc[("msft", "max"), "difference"] == pytest.approx(0.3)
    assert frame.loc[("msft", "roman"), ["difference", "low", "high"]].tolist() == [0, 0, 0]


def test_the_difference_is_over_the_seeds_that_both_have() -> None:
    own = [finding for finding in THREE if finding.arm.label != "sft, seed 3"]
    summary = summary_frame(own, "sft").set_index("method")
    assert summary["num_seeds"].to_dict() == {"sft": 2, "msft": 3}
    assert summary.loc["msft", "difference"] == pytest.approx(0.15)


def test_one_seed_has_no_spread() -> None:
    summary = summary_frame([finding for finding in THREE if finding.arm.seed == 1], "sft")
    assert summary["std"].isna().all()


def test_a_failed_search_keeps_its_row_and_fails_the_comparison_in_the_end() -> None:
    outcomes = [Outcome(arm=finding.arm) for finding in THREE]
    outcomes[1] = Outcome(arm=outcomes[1].arm, error="WorkerError: no memory")
    runs = runs_frame(outcomes, [*THREE[:1], *THREE[2:]])
    assert list(runs["error"]) == ["", "WorkerError: no memory", "", "", "", ""]
    assert runs["test_accuracy"].isna().tolist() == [False, True, False, False, False, False]
    with pytest.raises(
        IncompleteComparisonError, match=r"1 of 6 searches failed:\n.*sft, seed 2: WorkerError"
    ):
        refuse_failures(outcomes)
    refuse_failures(outcomes[2:])


def test_the_scores_have_a_row_for_each_search_and_sub_dataset() -> None:
    scores = scores_frame(THREE)
    assert len(scores) == 6 * 2
    assert set(scores["accuracy"]) == {0.5, 0.6, 0.9}


def test_the_plot_shows_each_method_at_its_flops_and_accuracy(tmp_path: Path) -> None:
    figure = plot_comparison(summary_frame(THREE, "sft"), "sft")
    points = [value for c in figure.axes[0].containers for value in c.lines[0].get_xydata()[0]]  # type: ignore[attr-defined]
    assert points == pytest.approx([1e12, 55, 2e12, 70])
    for path in save_figure(figure, tmp_path / "plot"):
        assert path.stat().st_size > 1000
    assert "mSFT" in (tmp_path / "plot.svg").read_text()


def end(arm: Arm, content: dict[str, str]) -> Outcome:
    """Leave what a search leaves that has ended: here one of two rounds, of which the second was discarded."""
    directory = directory_of(arm.config)
    directory.mkdir(parents=True)
    append_event(str(directory), {"event": "search_started", "content": content})
    for index, target in enumerate((4, 4)):
        key = {"round": index, "step": 4 + 4 * index}
        interval = {"key": key, "num_tokens": 100, "num_examples": 10, "flops": 6.0, "seconds": 2.0}
        append_event(
            str(directory),
            {
                "event": "round_decided",
                "round": index,
                "decision": {"roll_back_to": {"round": 0, "step": target}},
                "intervals": [interval],
                "evaluation": {"num_tokens": 30, "num_examples": 3, "flops": 1.0, "seconds": 0.5},
                # A killed search costs no more than its method does.
                "restarts": [{"lost": {"num_tokens": 70, "num_examples": 7, "flops": 9.0, "seconds": 9.0}}],
            },
        )
    scores = tuple(
        SubDatasetScore(sub_dataset=name, accuracy=accuracy, loss=1, num_examples=4, correct="1100")
        for name, accuracy in (("max", 0.5), ("free text", None))
    )
    tested = CheckpointScores(key=CheckpointKey(0, 4), sha256="", scores=scores, cost=EvaluationCost())
    champion = ChampionResult(
        key=CheckpointKey(0, 4), directory="", model_version="1", validation=tested, test=tested
    )
    append_event(
        str(directory), {"event": "champion_crowned", "champion": json.loads(champion.model_dump_json())}
    )
    return Outcome(arm=arm)


def test_a_finding_is_read_from_the_searchs_journal(tmp_path: Path) -> None:
    arms, _ = plan_comparison(config_of(output_root=str(tmp_path)), ("msft",), (1,), "")
    found = find_all([end(arms[0], {"max/test": "abc", "max/train": "def"})], same_data=True)[0]
    cost = found.cost
    assert (cost.train_tokens, cost.discarded_tokens, cost.evaluation_tokens) == (200, 100, 60)
    assert (cost.flops, cost.seconds) == (14.0, 5.0)
    assert [score.sub_dataset for score in found.test] == ["max"], "what has no accuracy is not compared"
    assert (found.accuracy, found.test_hashes) == (0.5, {"max": "abc"})


def test_searches_on_different_data_are_not_compared(tmp_path: Path) -> None:
    arms, _ = plan_comparison(config_of(output_root=str(tmp_path)), ("sft", "msft"), (1, 2), "")
    one, two, three, four = (end(arm, {"max/test": text}) for arm, text in zip(arms, "abcc", strict=True))
    assert len(find_all([three, four], same_data=True)) == 2
    with pytest.raises(
        DifferentDataError,
        match="seed 1: sft, seed 1 .* max/test: was 'a', is 'b'".replace(" .* ", "(.|\n)*"),
    ):
        find_all([one, two, three, four], same_data=True)
    assert len(find_all([one, two, three, four], same_data=False)) == 4


ARMS = [arm_of("msft", seed) for seed in range(4)]


@pytest.mark.parametrize("gpus", [(None,), (None, None)])
def test_one_failed_search_does_not_lose_the_others(gpus: tuple[None, ...], tmp_path: Path) -> None:
    def search(arm: Arm) -> None:
        if arm.seed == 1:
            raise ValueError("broken")

    outcomes = run_side_by_side(ARMS, search, gpus, tmp_path)
    assert [outcome.arm.seed for outcome in outcomes] == [0, 1, 2, 3]
    assert [outcome.error for outcome in outcomes] == ["", "ValueError: broken", "", ""]


@pytest.mark.parametrize("gpus", [("0,1", "2,3"), ("2,3", "2,3")], ids=["their own", "shared"])
def test_searches_side_by_side_have_a_gpu_and_a_log_each(tmp_path: Path, gpus: tuple[str, ...]) -> None:
    both_run = threading.Barrier(2)
    seen: dict[int, str] = {}
    sharing: set[bool] = set()

    def search(arm: Arm) -> None:
        both_run.wait(30)
        seen[arm.seed] = launch._environment(1)["CUDA_VISIBLE_DEVICES"]
        lane = current_lane()
        assert lane is not None
        sharing.add(lane.shares_gpus)
        logging.getLogger("tasks").info(f"search {arm.seed}")

    run_side_by_side(ARMS, search, gpus, tmp_path)
    assert sorted(seen.values()) == sorted([*gpus, *gpus])
    assert sharing == {gpus[0] == gpus[1]}
    assert os.environ.get("CUDA_VISIBLE_DEVICES") != "0,1"
    for arm in ARMS:
        assert (tmp_path / f"tiny-msft-seed-{arm.seed}.log").read_text() == f"search {arm.seed}\n"


def test_one_search_does_not_take_the_lock_of_bars_away_from_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bar(tqdm):  # type: ignore[misc]
        """A class without a lock of its own, as that of `datasets` is at first."""

    monkeypatch.delattr(tqdm, "_lock", raising=False)
    first_began, second_began, first_ended = threading.Event(), threading.Event(), threading.Event()

    def search(arm: Arm) -> None:
        if arm.seed == 0:
            with ensure_lock(Bar):  # as `datasets` reads files
                first_began.set()
                second_began.wait(30)
            first_ended.set()
        else:
            first_began.wait(30)
            with ensure_lock(Bar):
                second_began.set()
                first_ended.wait(30)
                assert Bar._lock is not None

    outcomes = run_side_by_side(ARMS[:2], search, (None, None), tmp_path)
    assert [outcome.error for outcome in outcomes] == ["", ""]


def test_a_signal_ends_all_workers_and_starts_no_other_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first search is interrupted, as the main thread would be; the second one's worker sleeps.

    That the second one ends early is no failure of its own, and is not told as one.
    """
    spec = tmp_path / "sleep_spec.json"
    started: list[int] = []
    is_running, has_ended = threading.Event(), threading.Event()

    def search(arm: Arm) -> None:
        started.append(arm.seed)
        if arm.seed == 0:
            is_running.wait(30)
            raise KeyboardInterrupt
        is_running.set()
        try:
            launch._run([os.sys.executable, "-c", "import time; time.sleep(60)"], spec, "w", os.environ, None)  # type: ignore[attr-defined]
        except KeyboardInterrupt as error:  # as Prefect does where its client is closed by then
            has_ended.set()
            raise RuntimeError("Cannot send a request, as the client has been closed.") from error

    with pytest.raises(KeyboardInterrupt):
        run_side_by_side(ARMS, search, (None, None), tmp_path)
    assert has_ended.wait(30)
    time.sleep(0.2)  # in which it would be told
    assert "seed 1:" not in capsys.readouterr().out
    assert sorted(started[:2]) == [0, 1]
    assert len(started) <= 3


def test_each_search_gets_its_gpus_and_a_cpu_takes_one_search_unless_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for index in range(5):
        (tmp_path / f"nvidia{index}").touch()
    one, two = config_of(training={}), config_of(training={"num_processes": 2})
    assert lanes(one, None, tmp_path) == ("0", "1", "2", "3", "4")
    assert lanes(one, 2, tmp_path) == ("0", "1")
    assert lanes(two, None, tmp_path) == ("0,1", "2,3")
    assert lanes(two, 3, tmp_path) == ("0,1", "2,3", "0,1")  # told to run more than find their own
    assert lanes(config_of(training={"accelerate_config": "x"}), None, tmp_path) == ("0,1,2,3,4",)
    assert lanes(config_of(training={"num_processes": 8}), None, tmp_path) == (None,)
    assert lanes(config_of(), None, tmp_path) == (None,)
    assert lanes(config_of(), 3, tmp_path) == (None, None, None)
