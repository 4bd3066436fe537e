"""Count what one optimizer step asks of a device, without a device.

    python -m tests.benchmarks.count_step [--json FILE] [--set training.batching=grouped]

Takes a step of real10's rows (where they lie beside the clone, else of the quickstart's) with the layers and heads of
SmolLM2-135M, at an eighth of its width, in bf16. Prints:

- kernels: operations dispatched, without views and allocations; `foreach` operations count once;
- weight casts: copies of a parameter to another type;
- copies to the device, reads from the device: calls of this project's code that would be one on a GPU;
- logit positions: those computed, and those with a label.

Stand-ins take the place of what a GPU computes in one kernel: attention of packed rows, and norms.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.nn import functional as F
from torch.nn.attention import varlen
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, LlamaConfig

from tasks.config.loading import load_config
from tasks.data.inputs import load_inputs
from tasks.workers.train import Trainer
from tasks.workers.training.attention import use_packed_attention
from tests.benchmarks.training_step import trainer_of

DATA = Path(__file__).parents[2] / "data"
SHAPE: dict[str, Any] = {
    "hidden_size": 72,
    "intermediate_size": 192,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
KERNELS, CASTS, COMPUTED, NEEDED = "kernels", "weight casts", "logit positions computed", "logit positions needed"
COPIES, READS = "copies to the device", "reads from the device"
# No work for a device; the first are the optimizer's marks for a profiler.
_NO_KERNELS = ("_record_function", "empty", "new_empty", "detach", "alias", "_unsafe_view", "lift_fresh", "set_")
_READS = ("item", "tolist", "cpu", "__bool__", "__float__", "__int__", "__index__")
_COPIES = ("to", "cuda", "tensor", "as_tensor")


class _Kernels(TorchDispatchMode):
    """Counts dispatched operations; `vocabulary` tells the head's products."""

    def __init__(self, counts: Counter[str], model: Any) -> None:
        super().__init__()
        self.counts = counts
        self.weights = {parameter.data_ptr() for parameter in model.parameters()}
        self.vocabulary = model.get_output_embeddings().weight.shape[0]

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = function(*arguments, **(options or {}))
        name = function._schema.name.partition("::")[2]
        if function.is_view or name.startswith(_NO_KERNELS):
            return result
        self.counts[KERNELS] += 1
        is_backward = torch._C._current_graph_task_id() != -1
        self.counts["backward" if is_backward else "forward and update"] += 1
        if name == "_to_copy" and result.dtype != arguments[0].dtype:
            self.counts[CASTS] += arguments[0].data_ptr() in self.weights
        if name in ("mm", "addmm") and result.shape[-1] == self.vocabulary and not is_backward:
            self.counts[COMPUTED] += result.shape[0]
        return result


class _Transfers(TorchFunctionMode):
    """Counts calls of this project's code that move tensors between host and device."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        options, name = options or {}, getattr(function, "__name__", "")
        if sys._getframe(1).f_globals.get("__name__", "").startswith("tasks."):
            self.counts[READS] += name in _READS
            names_device = options.get("device") or any(isinstance(value, torch.device) for value in arguments[1:])
            self.counts[COPIES] += name in _COPIES and bool(names_device)
        return function(*arguments, **options)


@torch.library.custom_op("msft_tests::attention", mutates_args=())
def _attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)


@torch.library.custom_op("msft_tests::attention_backward", mutates_args=())
def _attention_backward(
    gradient: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return gradient.clone(), torch.zeros_like(k), torch.zeros_like(v)


_attention.register_autograd(
    lambda ctx, gradient: _attention_backward(gradient, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


@torch.library.custom_op("msft_tests::rms_norm", mutates_args=())
def _rms_norm(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return hidden * weight


@torch.library.custom_op("msft_tests::rms_norm_backward", mutates_args=())
def _rms_norm_backward(
    gradient: torch.Tensor, hidden: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return gradient * weight, (gradient * hidden).flatten(0, -2).sum(0)


_rms_norm.register_autograd(
    lambda ctx, gradient: _rms_norm_backward(gradient, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


@contextmanager
def computing_as_on_a_gpu(trainer: Trainer) -> Iterator[None]:
    """Dispatch as on a GPU: stand-ins take the place of torch's attention of packed rows and of its norm.

    On a CPU the norm consists of several operations. The stand-ins compute other numbers.
    """

    def normalize(hidden: torch.Tensor, _shape: Any, weight: torch.Tensor, _epsilon: float) -> torch.Tensor:
        result: torch.Tensor = _rms_norm(hidden, weight)
        return result

    def attend(q: Any, k: Any, v: Any, *_bounds: Any, enable_gqa: bool = False, **_options: Any) -> torch.Tensor:
        result: torch.Tensor = _attention(q, k, v)
        return result

    if trainer.spec.training.batching == "packed":
        use_packed_attention(trainer.stepper.model, trainer.spec.model, torch.device("cuda"), "bf16")
        trainer.stepper.bounds_rows = True
    with patch.object(varlen, "varlen_attn", attend), patch.object(F, "rms_norm", normalize):
        yield


@contextmanager
def counting(trainer: Trainer) -> Iterator[Counter[str]]:
    """Count what the block asks of the device."""
    counts: Counter[str] = Counter({CASTS: 0, COPIES: 0, READS: 0})
    with _Transfers(counts), _Kernels(counts, trainer.stepper.model):
        yield counts


def count_step(trainer: Trainer) -> dict[str, int]:
    """Return the counts of the trainer's second step; the first one also makes the optimizer's state."""
    take: Callable[[], None] = lambda: trainer.train_step(  # noqa: E731
        trainer.policy.rows(trainer.position.step, trainer.position.cursors)
    )
    with computing_as_on_a_gpu(trainer), patch.object(trainer.progress, "is_due", lambda done: False):
        take()
        before = sum(trainer.account.interval.num_labels.values())
        with counting(trainer) as counts:
            take()
    counts[NEEDED] = sum(trainer.account.interval.num_labels.values()) - before
    return dict(counts)


def narrow_model(vocabulary: int, folder: Path) -> str:
    """Write a model of random weights with SmolLM2-135M's layers and heads; return its directory."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE, vocab_size=vocabulary)).save_pretrained(folder)
    return str(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Count a step and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the counts to this file too")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="a.b=c, of the configuration")
    given = parser.parse_args(arguments)
    is_real = (DATA.parents[1] / "shared" / "real_mixture").is_dir()
    source = str(DATA / ("real10.yaml" if is_real else "quickstart.yaml"))
    names = [sub_dataset.name for sub_dataset in load_config(source).mixture.sub_datasets] if is_real else []
    slices = [f"mixture.sub_datasets.{name}.max_rows={{train: 64, validation: 8, test: 8}}" for name in names]
    # One pass, as the memory of a GPU allows.
    settings = ["training.batch_size=64", "training.micro_batch_size=64", *given.overrides]
    settings = ["training.batching=packed", "training.precision=bf16", *settings]
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(source, [f"output_root={folder}", "training.device=cpu", *slices, *settings])
        inputs = load_inputs(config)
        model = {"directory": narrow_model(inputs.model.vocab_size, Path(folder, "narrow"))}
        inputs = inputs.model_copy(update={"model": inputs.model.model_copy(update=model)})
        counts = count_step(trainer_of(config, inputs, Path(folder, "rounds", "000")))
    for name, count in counts.items():
        print(f"{name:<32}{count:>8,}")
    if given.json is not None:
        given.json.write_text(json.dumps(counts, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
