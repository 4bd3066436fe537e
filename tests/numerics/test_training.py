"""The training worker computes what a plain loop computes, however its rows are laid out and interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

from tasks.config.identity import differences, search_id_of
from tasks.config.loading import change_config
from tasks.config.schema import LoraConfig, SearchConfig
from tasks.contracts import BaseModelRef, CheckpointRef, RolloutResult, RolloutSpec
from tasks.errors import NonFiniteLossError, WorkerError
from tasks.record.paths import checkpoint_directory
from tasks.runtime.launch import run_accelerate, run_module
from tasks.runtime.machine import numerical_environment
from tasks.workers.train import train
from tasks.workers.training.batches import RowStore, plan_steps
from tasks.workers.training.optimization import learning_rate_at

MakeRollout = Callable[..., Path]
CONFIG = SearchConfig.model_validate(
    {
        "name": "tiny",
        "model": {"source": "somewhere"},
        "mixture": {"sub_datasets": [{"name": "max", "synthetic": {"skill": "max"}}]},
        "search": {"max_epochs": 4},
    }
)


def result_of(spec_path: Path) -> RolloutResult:
    return RolloutResult.model_validate_json((spec_path.parent / "rollout_result.json").read_text())


def weights_at(spec_path: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(checkpoint_directory(spec_path.parent, step) / "model.safetensors")


def largest_difference(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    assert set(left) == set(right)
    return max(float((left[name].detach() - right[name]).abs().max()) for name in left)


def spec_of(spec_path: Path) -> RolloutSpec:
    return RolloutSpec.model_validate_json(spec_path.read_text())


@pytest.fixture
def straight(make_rollout: MakeRollout) -> Path:
    """A roll-out that nothing disturbs."""
    path = make_rollout("straight")
    train(path)
    return path


def test_a_rollout_publishes_the_start_and_every_evaluation_step(straight: Path) -> None:
    result = result_of(straight)
    assert [checkpoint.key.step for checkpoint in result.checkpoints] == [0, 4, 9]
    assert [interval.num_examples for interval in result.intervals] == [64, 80]
    assert set(result.intervals[0].losses) == {"max", "cmp", "roman"}
    assert json.loads((straight.parent / "progress.json").read_text())["device"] == "cpu"


def test_the_worker_takes_the_steps_of_a_plain_loop(straight: Path) -> None:
    spec = spec_of(straight)
    model = AutoModelForCausalLM.from_pretrained(spec.model.directory, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.0)
    stores = [RowStore(part.train) for part in spec.mixture.draws]
    for step, rows in enumerate(plan_steps(spec.mixture, spec.seed, 16)):
        loss_sum, count = torch.zeros(()), 0
        for draw in rows:
            ids, loss_mask = (torch.tensor(column).long() for column in stores[draw.sub_dataset].row(draw.row))
            logits = model(input_ids=ids[None]).logits[0, :-1]
            losses = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
            loss_sum = loss_sum + losses[loss_mask[1:] == 1].sum()
            count += int(loss_mask[1:].sum())
        (loss_sum / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = learning_rate_at(spec, step)
        optimizer.step()
        optimizer.zero_grad()
    assert largest_difference(dict(model.named_parameters()), weights_at(straight, 9)) < 2e-5


@pytest.mark.parametrize(
    "layout",
    [
        {"micro_batch_size": 8},
        {"micro_batch_size": 5},
        {"batching": "packed"},
        {"batching": "padded"},
        {"batching": "packed", "micro_batch_size": 4},
    ],
    ids=["accumulation 2x8", "accumulation 4x5", "packed", "padded", "packed 4x4"],
)
def test_the_layout_of_a_step_does_not_change_its_gradient(
    straight: Path, make_rollout: MakeRollout, layout: dict[str, Any]
) -> None:
    other = make_rollout("other", **layout)
    train(other)
    assert result_of(other).intervals[-1].batch_hash == result_of(straight).intervals[-1].batch_hash
    assert largest_difference(weights_at(straight, 9), weights_at(other, 9)) < 2e-5


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 5e-3)])
def test_two_processes_train_what_one_trains(make_rollout: MakeRollout, precision: str, tolerance: float) -> None:
    straight = make_rollout("straight", precision=precision)
    train(straight)
    other = make_rollout("two", num_processes=2, micro_batch_size=4, precision=precision)
    run_accelerate("tasks.workers.train", other, name="two processes", training=spec_of(other).training)
    one, two = result_of(straight), result_of(other)
    assert two.intervals[-1].batch_hash == one.intervals[-1].batch_hash
    assert largest_difference(weights_at(straight, 9), weights_at(other, 9)) < 2 * tolerance
    for name, loss in one.intervals[0].losses.items():
        assert two.intervals[0].losses[name] == pytest.approx(loss, abs=tolerance)


# Waits after its sixth step, between the checkpoints of the fourth and the ninth, for a signal that ends it.
WAITING = """
import sys, time
from pathlib import Path
from tasks.workers.supervisor import run_worker
from tasks.workers.train import Trainer, train

take_step = Trainer.train_step

def step_and_wait(self, rows):
    take_step(self, rows)
    if self.position.step == 6:
        Path(sys.argv[1]).with_name("waiting").touch()
    while self.position.step == 6 and not self.stop.is_set:
        time.sleep(0.01)

Trainer.train_step = step_and_wait
sys.exit(run_worker(train, Path(sys.argv[1])))
"""


@pytest.mark.parametrize(
    ("number", "method"), [(signal.SIGTERM, "sft"), (signal.SIGKILL, "sft"), (signal.SIGKILL, "msft")]
)
def test_an_interrupted_rollout_ends_with_the_same_bits(
    straight: Path, make_rollout: MakeRollout, number: signal.Signals, method: str
) -> None:
    other = make_rollout("interrupted", method=method)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    process = subprocess.Popen([sys.executable, "-c", WAITING, str(other)], env=environment)
    while not other.with_name("waiting").exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(number)
    assert process.wait(300) == {signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    assert checkpoint_directory(other.parent, 6).exists() == (number == signal.SIGTERM)
    assert not (other.parent / "rollout_result.json").exists()
    train(other)
    assert result_of(other).intervals[-1].batch_hash == result_of(straight).intervals[-1].batch_hash
    assert result_of(other).intervals[0].losses == result_of(straight).intervals[0].losses
    assert largest_difference(weights_at(straight, 9), weights_at(other, 9)) == 0.0
    assert largest_difference(weights_at(straight, 4), weights_at(other, 4)) == 0.0
    with_state = sorted(path.parent.name for path in other.parent.glob("checkpoints/*/optimizer.safetensors"))
    assert with_state[1:] == [f"step-{step:08d}" for step in ([4, 9] if method == "msft" else [9])]


def test_a_damaged_checkpoint_is_set_aside_and_trained_again(straight: Path, make_rollout: MakeRollout) -> None:
    other = make_rollout("damaged")
    train(other)
    (other.parent / "rollout_result.json").unlink()
    torn = checkpoint_directory(other.parent, 9) / "model.safetensors"
    torn.write_bytes(torn.read_bytes()[:-100])
    train(other)
    assert largest_difference(weights_at(straight, 9), weights_at(other, 9)) == 0.0


def from_checkpoint(straight: Path, other: Path, step: int, optimizer: str) -> None:
    """Let the roll-out of `other` start from the checkpoint that `straight` published at `step`."""
    checkpoint: CheckpointRef = next(c for c in result_of(straight).checkpoints if c.key.step == step)
    changes = {
        "start": checkpoint,
        "start_directory": str(checkpoint_directory(straight.parent, step)),
        "first_step": step,
    }
    mixture = spec_of(other).mixture
    draws = tuple(part.model_copy(update={"cursor": checkpoint.cursors[part.name]}) for part in mixture.draws)
    changes |= {"mixture": mixture.model_copy(update={"draws": draws}), "optimizer": optimizer}
    other.write_text(spec_of(other).model_copy(update=changes).model_dump_json())


def test_roll_outs_of_one_whole_take_its_steps_in_every_bit(straight: Path, make_rollout: MakeRollout) -> None:
    """As rounds of `rule: paired` in which nothing is excluded: 4 of the 9 steps in one roll-out, 5 in the next."""
    whole, first = make_rollout("whole", ema=0.9), make_rollout("first", ema=0.9)
    train(whole)
    spec = spec_of(first)
    part = {"num_rows": 64, "num_steps": 4, "evaluation_offsets": (4,), "part_of": (0, 144)}
    first.write_text(spec.model_copy(update={"mixture": spec.mixture.model_copy(update=part)}).model_dump_json())
    train(first)
    second = make_rollout("second", ema=0.9)
    from_checkpoint(first, second, 4, "restore")
    spec = spec_of(second)
    part = {"round": 1, "num_rows": 80, "num_steps": 5, "evaluation_offsets": (5,), "part_of": (64, 144)}
    second.write_text(spec.model_copy(update={"mixture": spec.mixture.model_copy(update=part)}).model_dump_json())
    train(second)
    for file in ("model.safetensors", "average.safetensors", "optimizer.safetensors"):
        expected, found = (load_file(checkpoint_directory(one.parent, 9) / file) for one in (whole, second))
        assert largest_difference(expected, found) == 0.0, file
    intervals = [*result_of(first).intervals, *result_of(second).intervals]
    assert [i.flops for i in intervals] == [i.flops for i in result_of(whole).intervals]


def test_rolling_back_restores_the_optimizer_or_resets_it(straight: Path, make_rollout: MakeRollout) -> None:
    moments = {}
    for optimizer in ("restore", "reset"):
        other = make_rollout(optimizer)
        from_checkpoint(straight, other, 4, optimizer)
        train(other)
        assert [c.key.step for c in result_of(other).checkpoints] == [8, 13]
        moments[optimizer] = load_file(checkpoint_directory(other.parent, 13) / "optimizer.safetensors")
    steps = {name: int(m["model.norm.weight/step"]) for name, m in moments.items()}
    assert steps == {"restore": 13, "reset": 9}


def test_the_accepted_path_sees_every_row_equally_often(straight: Path, make_rollout: MakeRollout) -> None:
    other = make_rollout("next")
    from_checkpoint(straight, other, 4, "restore")
    train(other)
    last = result_of(other).checkpoints[-1]
    assert sum(last.cursors.values()) == 64 + 144


def test_lora_trains_and_saves_the_adapters_only(tiny_base: BaseModelRef, make_rollout: MakeRollout) -> None:
    base = tiny_base.model_copy(update={"lora": LoraConfig(r=4, alpha=8)})
    path = make_rollout("lora", base=base)
    train(path)
    tensors = weights_at(path, 9)
    assert all("lora_" in name for name in tensors)
    changed = [name for name, value in weights_at(path, 0).items() if not torch.equal(value, tensors[name])]
    assert any("lora_B" in name for name in changed)


def test_gradient_checkpointing_recomputes_and_changes_nothing(
    tiny_base: BaseModelRef, make_rollout: MakeRollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, calls = LlamaMLP.forward, [0]

    def counting(self: LlamaMLP, x: torch.Tensor) -> torch.Tensor:
        calls[-1] += 1
        result: torch.Tensor = forward(self, x)
        return result

    monkeypatch.setattr(LlamaMLP, "forward", counting)
    straight = make_rollout("straight")
    train(straight)
    calls.append(0)
    path = make_rollout("checkpointed", base=tiny_base.model_copy(update={"gradient_checkpointing": True}))
    train(path)
    at_start = 3 * 2  # the comparison of logits, without gradients
    assert calls == [9 * 2 + at_start, 9 * 2 * 2 + at_start]  # steps, layers
    assert largest_difference(weights_at(straight, 9), weights_at(path, 9)) < 1e-6


def test_bf16_follows_fp32(straight: Path, make_rollout: MakeRollout) -> None:
    path = make_rollout("bf16", precision="bf16")
    run_accelerate("tasks.workers.train", path, name="bf16", training=spec_of(path).training)
    fp32, bf16 = result_of(straight).intervals[-1].losses, result_of(path).intervals[-1].losses
    assert bf16 == pytest.approx(fp32, rel=0.05)
    # No layout of a step in fp32 comes to a tenth of this.
    assert largest_difference(weights_at(straight, 9), weights_at(path, 9)) > 2e-4


def test_a_diverging_rollout_says_so_and_keeps_what_it_published(make_rollout: MakeRollout) -> None:
    path = make_rollout("diverging", learning_rate=1e30, warmup_steps=0)
    with pytest.raises(NonFiniteLossError, match="training loss at step"):
        train(path)
    assert checkpoint_directory(path.parent, 0).is_dir()
    assert not (path.parent / "rollout_result.json").exists()


LACK_OF_MEMORY = {
    "the CPU": "torch.empty(1 << 55, dtype=torch.uint8)",
    "a GPU": "raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 GiB.')",
}
SHORT_WORKER = """
import sys, torch
from pathlib import Path
from tasks.workers.supervisor import run_worker
def main(spec):
    {}
sys.exit(run_worker(main, Path(sys.argv[1])))
"""


@pytest.mark.parametrize("place", LACK_OF_MEMORY)
def test_an_out_of_memory_worker_names_the_settings_that_help(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "short_worker.py").write_text(SHORT_WORKER.format(LACK_OF_MEMORY[place]))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(WorkerError) as raised:
        run_module("short_worker", tmp_path / "w_spec.json", name="roll-out of round 0", threads=1)
    told = str(raised.value)
    for setting in ("training.micro_batch_size=4", "evaluation.batch_tokens=64", "model.gradient_checkpointing=true"):
        key, _, value = setting.partition("=")
        assert f"--set {key}=" in told
        other = change_config(CONFIG, {key: yaml.safe_load(value)}, "test")
        assert search_id_of(other) == search_id_of(CONFIG)  # the same search, which goes on
        assert differences(numerical_environment(CONFIG), numerical_environment(other))  # once that is accepted
    assert "--accept-changes" in told
    assert not raised.value.retryable
