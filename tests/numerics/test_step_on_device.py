"""A step copies once, reads nothing, and stops a search at a bad gradient before anything of it is published."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, LlamaConfig

from tasks.errors import NonFiniteLossError
from tasks.record.paths import checkpoint_directory, published_checkpoints
from tasks.workers.forward import IGNORED, LogitsAt
from tasks.workers.train import Trainer
from tests.benchmarks.count_step import COMPUTED, COPIES, NEEDED, READS, count_step
from tests.numerics.conftest import trainer_of

MakeRollout = Callable[..., Path]


@pytest.mark.parametrize("batching", ["grouped", "packed", "padded"])
def test_a_step_copies_once_and_reads_nothing(make_rollout: MakeRollout, batching: str) -> None:
    counts = count_step(trainer_of(make_rollout(batching, batching=batching, micro_batch_size=6)))
    assert (counts[COPIES], counts[READS]) == (1, 0)
    assert counts[COMPUTED] == counts[NEEDED] > 0


def spoil_the_third_gradient(trainer: Trainer) -> None:
    """Give the third step a gradient that is not a number; those after it are sound."""
    weight, calls = next(trainer.learner.model.parameters()), iter(range(1, 100))
    weight.register_hook(lambda gradient: gradient * float("nan") if next(calls) == 3 else gradient)


def test_a_bad_gradient_is_told_by_its_step_and_never_published(
    make_rollout: MakeRollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sound step follows before the next checkpoint, which is that of the fourth step."""
    trainer = trainer_of(make_rollout("bad"))
    spoil_the_third_gradient(trainer)
    monkeypatch.setattr(trainer.progress, "is_due", lambda done: False)
    with pytest.raises(NonFiniteLossError, match="at step 3"):
        trainer.run()
    assert [directory.name for directory in published_checkpoints(trainer.output)] == [
        checkpoint_directory(trainer.output, 0).name
    ]


def test_a_bad_gradient_leaves_weights_and_moments(make_rollout: MakeRollout, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(make_rollout("bad"))
    spoil_the_third_gradient(trainer)
    monkeypatch.setattr(trainer.progress, "is_due", lambda done: False)
    states = []
    for _ in range(3):
        trainer.train_step(trainer.policy.rows(trainer.position.step, trainer.position.cursors))
        states.append(deepcopy(trainer.learner.tensors()))
    for file, tensors in states[1].items():
        assert all(torch.equal(value, states[2][file][name]) for name, value in tensors.items())


class Largest(TorchDispatchMode):
    """Keeps the size of the largest tensor that any operation gives."""

    numel = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = function(*arguments, **(options or {}))
        if isinstance(result, torch.Tensor) and not function.is_view:
            self.numel = max(self.numel, result.numel())
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_of_a_large_vocabulary_need_little_memory(dtype: torch.dtype) -> None:
    """Qwen's vocabulary: at most 8 of 48 rows of logits stand at once, and losses and gradients are the same."""
    torch.manual_seed(0)
    vocabulary = 151_936
    sizes: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": vocabulary}
    config = LlamaConfig(**sizes, num_attention_heads=1, tie_word_embeddings=True)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    ids, positions = torch.randint(0, vocabulary, (4, 13)), torch.arange(48)
    labels = torch.where(positions % 7 == 0, IGNORED, torch.randint(0, vocabulary, (48,)))
    results = []
    for at_once in (vocabulary * 100, vocabulary * 8):
        logits_at = LogitsAt(model)
        model.zero_grad()
        with Largest() as largest:
            losses = logits_at.losses({"input_ids": ids}, positions, labels, at_once)
            losses.sum().backward()
        assert losses.dtype == torch.float32
        results.append((losses.detach(), [p.grad.clone() for p in model.parameters()]))
        # The head's own weight is as large as 8 rows of logits.
        assert largest.numel == min(48, at_once // vocabulary) * vocabulary
    (whole, whole_gradients), (parts, part_gradients) = results
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-6)
    for one, other in zip(part_gradients, whole_gradients, strict=True):
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        assert float((one - other).norm()) <= tolerance * float(other.norm())
