"""Roll-outs of one process, which keeps its model, end with the bits of roll-outs in processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.algorithm.state import CheckpointKey
from tasks.config.schema import LoraConfig
from tasks.contracts import BaseModelRef, CheckpointScores, ScoreRequest, ScoreSpec, ScoreSplit
from tasks.record.paths import checkpoint_directory
from tasks.record.rollout import read_manifest
from tasks.runtime.launch import log_path_of, run_accelerate
from tasks.runtime.pool import worker_pool
from tasks.workers import kept
from tasks.workers.model import load_base
from tasks.workers.score import score
from tasks.workers.train import Trainer
from tasks.workers.training.publishing import HostCopies
from tests.conftest import examples_of
from tests.numerics.test_training import from_checkpoint, spec_of

MakeRollout = Callable[..., Path]
LAST = 9


@pytest.fixture(autouse=True)
def _fresh_process() -> Iterator[None]:
    torch.set_num_threads(1)
    forget()
    yield
    forget()


def forget() -> None:
    """Keep no more than a process that has just started."""
    for kind in ("learner", "scored model"):
        kept.take(kind, None)


def files_of(spec_path: Path) -> dict[str, Any]:
    """Return the sizes and hashes of all files of the roll-out's checkpoints, the trainer's state without seconds."""
    directories = sorted((spec_path.parent / "checkpoints").iterdir())
    files = {directory.name: read_manifest(directory)["files"] for directory in directories}
    for content in files.values():
        del content["trainer_state.json"]  # has the seconds that training took
    return files


def run(path: Path) -> str:
    """Run a roll-out, and return where its start was found."""
    trainer = Trainer(spec_of(path))
    trainer.run()
    return trainer.restored_from


@pytest.fixture
def rollouts(make_rollout: MakeRollout, tiny_base: BaseModelRef) -> Callable[..., dict[str, Path]]:
    """Return a function that makes a roll-out, and others that go on from its middle, its end, or with a reset."""

    def make(where: str, lora: bool = False, **training: Any) -> dict[str, Path]:
        base = tiny_base.model_copy(update={"lora": LoraConfig(r=4, alpha=8, dropout=0.1)}) if lora else tiny_base
        paths = {
            name: make_rollout(f"{where}-{name}", base=base, **training)
            for name in ("first", "middle", "end", "reset", "reset at the end")
        }
        run(paths["first"])
        for name, path in paths.items():
            if name != "first":
                step = 4 if name in ("middle", "reset") else LAST
                from_checkpoint(paths["first"], path, step, "reset" if "reset" in name else "restore")
        return paths

    return make


@pytest.mark.parametrize(
    ("settings", "elsewhere"),
    [
        pytest.param({}, "disk", id="plain"),
        pytest.param({"ema": 0.9, "micro_batch_size": 4}, "host memory", id="average and accumulation"),
        pytest.param({"batching": "packed"}, "host memory", id="packed"),
        pytest.param({"lora": True, "ema": 0.9}, "disk", id="LoRA with dropout"),
        pytest.param({"precision": "bf16", "ema": 0.9}, "host memory", id="bf16"),
    ],
)
@pytest.mark.parametrize("order", [("middle", "end"), ("end", "middle"), ("end", "reset at the end", "reset")])
def test_rollouts_in_one_process_equal_those_in_two(
    rollouts: Callable[..., dict[str, Path]],
    settings: dict[str, Any],
    elsewhere: str,
    order: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("tasks.workers.train.goes_behind", lambda device: elsewhere == "host memory")
        together = rollouts("one", **settings)
        found = [run(together[name]) for name in order]
    assert found[0] == (elsewhere if order[0] == "middle" else "memory, in place")
    assert set(found[1:]) == {elsewhere}
    apart = rollouts("two", **settings)
    for name in order:
        forget()
        assert run(apart[name]) == "disk"
        assert files_of(apart[name]) == files_of(together[name])
    assert files_of(apart["first"]) == files_of(together["first"])


def test_the_newest_copies_stay_for_which_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.workers.training.publishing.host_memory", lambda: (10_000, 20_000))
    copies, files = HostCopies(), {"model.safetensors": {"weight": torch.zeros(300)}}
    for name in "abcde":
        copies.keep(name, files)
    # Of 10,000 bytes and those of the copies, a quarter.
    assert [name for name in "abcde" if copies.find(name) is not None] == ["d", "e"]
    monkeypatch.setattr("tasks.workers.training.publishing.host_memory", lambda: (4_800, 20_000))
    copies.keep("f", files)
    assert [name for name in "abcdef" if copies.find(name) is not None] == ["f"]


def test_a_checkpoint_that_was_made_again_is_not_taken_from_memory(rollouts: Callable[..., dict[str, Path]]) -> None:
    """Its manifest is another, so nothing in memory is known to be its content."""
    paths = rollouts("one")
    spec = spec_of(paths["end"])
    assert spec.start is not None
    changed = spec.model_copy(update={"start": spec.start.model_copy(update={"sha256": "0" * 64})})
    paths["end"].write_text(changed.model_dump_json())
    assert run(paths["end"]) == "disk"


def test_a_rollout_of_other_settings_loads_its_own_model(make_rollout: MakeRollout) -> None:
    one, other = make_rollout("one"), make_rollout("other", weight_decay=0.1)
    run(one)
    from_checkpoint(one, other, LAST, "restore")
    assert run(other) == "disk"


def test_a_rollout_that_failed_leaves_nothing_for_the_next(
    rollouts: Callable[..., dict[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = rollouts("one")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_close_interval", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(paths["end"])
    assert run(paths["end"]) == "disk"


@pytest.mark.nightly
def test_two_ranks_that_stay_equal_ranks_that_start_anew(make_rollout: MakeRollout, tmp_path: Path) -> None:
    made: dict[str, dict[str, Path]] = {}
    for where in ("together", "apart"):
        settings = {"num_processes": 2, "micro_batch_size": 4, "ema": 0.9}
        paths = made[where] = {name: make_rollout(f"{where}-{name}", **settings) for name in ("first", "end", "middle")}

        def start(path: Path) -> None:
            run_accelerate("tasks.workers.train", path, name="it", training=spec_of(path).training)

        with worker_pool(str(tmp_path / where)):
            start(paths["first"])
            for name, step in (("end", LAST), ("middle", 4)):
                from_checkpoint(paths["first"], paths[name], step, "restore")
                if where == "together":
                    start(paths[name])
        if where == "apart":
            for name in ("middle", "end"):
                start(paths[name])
    for name in ("first", "end", "middle"):
        assert files_of(made["together"][name]) == files_of(made["apart"][name])
    told = [log_path_of(made["together"][name]).read_text() for name in ("end", "middle")]
    assert ["in place" in text for text in told] == [True, False]


def scores_of(path: Path, base: BaseModelRef, split: ScoreSplit, steps: tuple[int, ...], name: str) -> list[str]:
    """Score checkpoints of a roll-out in one request, or the base model without steps; return the scores."""
    spec_path = path.with_name(f"{name}_spec.json")
    directories = {step: str(checkpoint_directory(path.parent, step)) for step in steps}
    requests = tuple(
        ScoreRequest(key=CheckpointKey(0, step), directory=directory, sub_datasets=(split.name,))
        for step, directory in directories.items()
    )
    spec = ScoreSpec(
        search_id="x", model=base, requests=requests, splits=(split,), batch_tokens=512, threads=1, device="cpu",
        precision="fp32", export_directory=None, output_directory=str(path.with_name(name)),
    )  # fmt: skip
    spec_path.write_text(spec.model_dump_json())
    score(spec_path)
    files = sorted(Path(spec.output_directory).iterdir())
    return [CheckpointScores.model_validate_json(file.read_text()).scores[0].model_dump_json() for file in files]


def test_a_scorer_that_stays_scores_as_one_that_starts(
    make_rollout: MakeRollout, tiny_base: BaseModelRef, make_split: Callable[..., ScoreSplit]
) -> None:
    path = make_rollout("one", learning_rate=1e-2)
    split = make_split("max", "exact_match", examples_of("max", "validation"))
    run(path)
    wanted = [(0, 4), (LAST,), (), (4,)]
    loaded = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.workers.score.load_base", lambda base: loaded.append(base) or load_base(base))
        together = [scores_of(path, tiny_base, split, steps, f"one-{n}") for n, steps in enumerate(wanted)]
    assert len(loaded) == 3  # for the first, for the base model and after it
    for n, steps in enumerate(wanted):
        forget()
        assert scores_of(path, tiny_base, split, steps, f"two-{n}") == together[n]
    assert together[0][1] == together[3][0] != together[1][0]
