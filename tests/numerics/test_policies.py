"""Policies and the moving average inside the worker, against plain loops and through a SIGTERM."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tasks.contracts import BaseModelRef, Mixture, RolloutResult, RolloutSpec
from tasks.record.paths import checkpoint_directory
from tasks.workers.supervisor import Preempted
from tasks.workers.train import Trainer, train
from tasks.workers.training.batches import Draw, PassLimit, RowStore, plan_steps
from tasks.workers.training.stepping import Stepper

MakeRollout = Callable[..., Path]
METHODS = [
    {"ema": 0.9},
    {"method": "dynamix_sft", "options": {"every_steps": 2}},
    # 2.0: every row is mastered from its third pass on, which the tests below count.
    {"method": "ies", "options": {"delta": 2.0}},
    {"precision": "bf16", "ema": 0.9, "micro_batch_size": 6},
]


@pytest.fixture
def long_mixture(tiny_mixture: Mixture) -> Mixture:
    """Four epochs: 18 steps of 16 rows, evaluated after 9 and 18."""
    longer = {"epochs": 4.0, "num_rows": 288, "num_steps": 18, "evaluation_offsets": (9, 18)}
    return tiny_mixture.model_copy(update=longer)


def _result(spec_path: Path) -> RolloutResult:
    return RolloutResult.model_validate_json((spec_path.parent / "rollout_result.json").read_text())


def _files(spec_path: Path, step: int) -> dict[str, dict[str, torch.Tensor]]:
    return {path.name: load_file(path) for path in checkpoint_directory(spec_path.parent, step).glob("*.safetensors")}


def _assert_equal(left: dict[str, dict[str, torch.Tensor]], right: dict[str, dict[str, torch.Tensor]]) -> None:
    assert set(left) == set(right)
    for file, tensors in left.items():
        assert set(tensors) == set(right[file])
        assert all(torch.equal(value, right[file][name]) for name, value in tensors.items()), file


def _train_with_a_stop(spec_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the roll-out after its eleventh step, as SIGTERM does, and go on."""
    asked = chain([False] * 10, repeat(True))
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_should_stop", lambda self: next(asked))
        with pytest.raises(Preempted):
            train(spec_path)
    train(spec_path)


@pytest.mark.parametrize("training", METHODS, ids=["ema", "dynamix_sft", "ies", "bf16"])
def test_a_preempted_roll_out_ends_with_the_same_bits(
    make_rollout: MakeRollout, long_mixture: Mixture, training: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = make_rollout("straight", mixture=long_mixture, **training)
    train(straight)
    broken = make_rollout("broken", mixture=long_mixture, **training)
    _train_with_a_stop(broken, monkeypatch)
    _assert_equal(_files(straight, 18), _files(broken, 18))
    hashes = [[interval.batch_hash for interval in _result(path).intervals] for path in (straight, broken)]
    assert hashes[0] == hashes[1]


def test_the_average_is_over_the_weights_after_each_step(make_rollout: MakeRollout) -> None:
    spec = RolloutSpec.model_validate_json(make_rollout("average", ema=0.5).read_text())
    every_step = tuple(range(1, 10))
    spec = spec.model_copy(update={"mixture": spec.mixture.model_copy(update={"evaluation_offsets": every_step})})
    path = Path(spec.output_directory, "rollout_spec.json")
    path.write_text(spec.model_dump_json())
    train(path)
    average = _files(path, 0)["model.safetensors"]
    for step in every_step:
        files, decay = _files(path, step), min(0.5, (1 + step) / (10 + step))
        average = {
            name: decay * average[name] + (1 - decay) * value for name, value in files["model.safetensors"].items()
        }
        for name, value in files["average.safetensors"].items():
            torch.testing.assert_close(value, average[name], rtol=1e-5, atol=1e-6)
    assert not torch.equal(average["model.norm.weight"], files["model.safetensors"]["model.norm.weight"])


def test_the_moving_average_leaves_the_training_as_it_is(make_rollout: MakeRollout) -> None:
    plain, averaged = make_rollout("plain"), make_rollout("averaged", ema=0.9)
    train(plain)
    train(averaged)
    assert torch.equal(
        _files(plain, 9)["model.safetensors"]["model.norm.weight"],
        _files(averaged, 9)["model.safetensors"]["model.norm.weight"],
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_look_ahead_leaves_no_trace_in_weights_and_moments(make_rollout: MakeRollout, precision: str) -> None:
    trainer = Trainer(RolloutSpec.model_validate_json(make_rollout("look", precision=precision).read_text()))
    rows = plan_steps(trainer.spec.mixture, trainer.spec.seed, 16)
    step = trainer.stepper.measure(rows[0], 1)
    trainer.stepper.take(step, range(16), [])
    weights = [*trainer.learner.model.parameters(), *trainer.learner.running.parameters()]
    before = [parameter.detach().clone() for parameter in weights]
    moments = [dict(state) for state in trainer.learner.optimizer.state.values()]
    moments = [{kind: value.clone() for kind, value in state.items()} for state in moments]
    first, then, work = trainer.stepper.look_ahead(rows[1], 2)
    assert first > then > 0
    assert work.num_tokens > 0
    assert all(torch.equal(p, q) for p, q in zip(weights, before, strict=True))
    for state, kept in zip(trainer.learner.optimizer.state.values(), moments, strict=True):
        assert all(torch.equal(value, kept[kind]) for kind, value in state.items())


def test_dynamix_draws_by_its_values_and_counts_look_aheads(make_rollout: MakeRollout, long_mixture: Mixture) -> None:
    """With gamma 0 and a steep softmax nearly all rows come from the one that gained most."""
    options = {"every_steps": 2, "gamma": 0.0, "alpha": 0.0, "beta": 50.0}
    path = make_rollout("dynamix", mixture=long_mixture, method="dynamix_sft", options=options)
    train(path)
    state = json.loads((checkpoint_directory(path.parent, 18) / "trainer_state.json").read_text())
    assert sorted(state["policy"]["values"].values())[-1] == 1.0
    assert sum(state["cursors"].values()) == 288
    plain = make_rollout("plain", mixture=long_mixture)
    train(plain)
    planned = json.loads((checkpoint_directory(plain.parent, 18) / "trainer_state.json").read_text())
    assert set(planned["cursors"].values()) == {96}
    assert max(state["cursors"].values()) > 120
    flops = [sum(interval.flops for interval in _result(p).intervals) for p in (path, plain)]
    assert flops[0] > 2 * flops[1]  # 3 look-aheads of a step each, every second step


def test_ies_only_measures_mastered_rows_and_charges_for_it(
    make_rollout: MakeRollout, long_mixture: Mixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With so wide a delta, each row is trained three times and then only watched."""
    trained: Counter[Draw] = Counter()
    take = Stepper.take

    def counting(self: Stepper, step: Any, positions: Any, left_out: Any) -> Any:
        trained.update(step.rows[i] for i in positions)
        return take(self, step, positions, left_out)

    monkeypatch.setattr(Stepper, "take", counting)
    path = make_rollout("ies", mixture=long_mixture, method="ies", options={"delta": 100.0})
    train(path)
    assert len(trained) == 72
    # A step that spans two passes may hold a row twice, and decides on both at once.
    assert min(trained.values()) == 3
    assert sum(trained.values()) <= 3 * 72 + 8
    monkeypatch.undo()
    plain = make_rollout("plain", mixture=long_mixture)
    train(plain)
    flops = [sum(interval.flops for interval in _result(p).intervals) for p in (path, plain)]
    # Three of four passes at three units, the fourth at one.
    assert flops[0] == pytest.approx(flops[1] * 10 / 12, rel=0.03)


def _answered_alone(spec: RolloutSpec, index: int, weights: dict[str, torch.Tensor]) -> set[int]:
    """Return the rows of a sub-dataset whose own tokens these weights find likeliest, one row at a time."""
    model = AutoModelForCausalLM.from_pretrained(spec.model.directory)
    model.load_state_dict(weights, strict=False)
    store = RowStore(spec.mixture.draws[index].train)
    right = set()
    for row in range(len(store)):
        ids, flags = (torch.from_numpy(values.copy()).long() for values in store.row(row))
        likeliest = model(input_ids=ids[None]).logits[0, :-1].argmax(dim=-1)
        if (likeliest == ids[1:])[flags[1:].bool()].all():
            right.add(row)
    return right


def test_rehearsal_trains_rows_that_the_averaged_weights_answer(
    make_rollout: MakeRollout, long_mixture: Mixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = {"epochs": 40.0, "num_rows": 2880, "num_steps": 180, "evaluation_offsets": (180,)}
    before = make_rollout("before", mixture=long_mixture.model_copy(update=longer), ema=0.5)
    train(before)
    draws = tuple(
        part.model_copy(update={"is_rehearsed": part.name == "cmp", "cursor": 960}) for part in long_mixture.draws
    )
    start = {"start": _result(before).checkpoints[-1], "first_step": 180}
    start["start_directory"] = str(checkpoint_directory(before.parent, 180))

    def go_on(name: str) -> tuple[Path, RolloutSpec]:
        path = make_rollout(name, ema=0.5, options={"rehearsal": 1.0, "rehearse": "correct"})
        mixture = long_mixture.model_copy(update={"draws": draws, "round": 1})
        spec = RolloutSpec.model_validate_json(path.read_text())
        spec = spec.model_copy(update={"mixture": mixture, **start})
        path.write_text(spec.model_dump_json())
        return path, spec

    trained: list[set[int]] = [set(), set(), set()]
    take = Stepper.take

    def counting(self: Stepper, step: Any, positions: Any, left_out: Any) -> Any:
        for i in positions:
            trained[step.rows[i].sub_dataset].add(step.rows[i].row)
        return take(self, step, positions, left_out)

    straight, spec = go_on("straight")
    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "take", counting)
        train(straight)
    rehearsed = [part.name for part in draws].index("cmp")
    answered = _answered_alone(spec, rehearsed, _files(before, 180)["average.safetensors"])
    assert 0 < len(answered) < 24
    assert trained[rehearsed] == answered
    assert [len(rows) for i, rows in enumerate(trained) if i != rehearsed] == [24, 24]

    broken, _ = go_on("broken")
    _train_with_a_stop(broken, monkeypatch)
    _assert_equal(_files(straight, 198), _files(broken, 198))
    flops = [sum(interval.flops for interval in _result(path).intervals) for path in (straight, broken)]
    assert flops[0] == flops[1]


def test_an_answer_depends_on_neither_dropout_nor_other_rows(
    tiny_base: BaseModelRef, make_rollout: MakeRollout, tmp_path: Path
) -> None:
    directory = shutil.copytree(tiny_base.directory, tmp_path / "dropping")
    config = json.loads((directory / "config.json").read_text()) | {"attention_dropout": 0.5}
    (directory / "config.json").write_text(json.dumps(config))
    path = make_rollout("dropping", base=tiny_base.model_copy(update={"directory": str(directory)}))
    trainer = Trainer(RolloutSpec.model_validate_json(path.read_text()))
    stepper = trainer.stepper
    step = stepper.measure([Draw(1, row) for row in range(24)], 100)
    for _ in range(60):
        stepper.take(step, range(24), [])
    forwards: list[int] = []
    trainer.learner.model.register_forward_pre_hook(
        lambda model, args, kwargs: forwards.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    results = []
    for size in (None, 1, 7):
        stepper.limit = PassLimit(size)
        results.append(stepper.answered(step))
    weights = dict(trainer.learner.model.named_parameters())
    answered = _answered_alone(trainer.spec, 1, {n: p.detach() for n, p in weights.items()})
    assert 0 < len(answered) < 24
    assert results == [[row in answered for row in range(24)]] * 3
    assert forwards == [24, *[1] * 24, 7, 7, 7, 3]
    assert trainer.learner.model.training
