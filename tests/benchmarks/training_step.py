"""Time optimizer steps of a configuration's own model and rows, in one process, for each variant of its settings.

    python -m tests.benchmarks.training_step data/real10.yaml --peak-flops-per-s 989e12 --profile \\
        --variant training.batching=packed \\
        --variant training.batching=grouped training.micro_batch_size=32

Prints one line a variant: milliseconds a step, tokens and FLOPs a second (and their share of the peak, where it is
given), and the most memory of the GPU. Variants run one after another on the same rows; compare only lines of one call.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from tasks.algorithm.state import SearchState
from tasks.config.loading import load_config
from tasks.config.schema import SearchConfig
from tasks.contracts import Inputs, RolloutSpec
from tasks.data.inputs import load_inputs
from tasks.mixing import mixture_of
from tasks.planning.hidden_cache import hidden_states_folder
from tasks.record.rollout import ProgressFile
from tasks.runtime.launch import num_threads
from tasks.workers.train import Trainer


class TimedTrainer(Trainer):
    """The worker of a search's first roll-out, a given number of steps at a time."""

    def take_steps(self, count: int) -> None:
        """Take the next steps, and wait for the device."""
        for _ in range(count):
            self.train_step(self.policy.rows(self.position.step, self.position.cursors))
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize()


def trainer_of(config: SearchConfig, inputs: Inputs, directory: Path) -> TimedTrainer:
    """Return the worker of a first roll-out in `directory`, with the base model loaded."""
    mixture = mixture_of(config, inputs, SearchState(active=inputs.names), None)
    spec = RolloutSpec(
        search_id="benchmark",
        seed=config.seed,
        method=config.search.method,
        options=config.search.options.model_dump(),
        mixture=mixture,
        model=inputs.model.model_copy(update={"attn_implementation": config.model.attn_implementation}),
        training=config.training,
        start=None,
        start_directory=None,
        first_step=0,
        optimizer="restore",
        decay_steps=mixture.num_steps,
        output_directory=str(directory),
        hidden_states=hidden_states_folder(config, inputs),
    )
    trainer = TimedTrainer(spec)
    trainer.progress = ProgressFile(directory, 0, mixture.num_steps, "benchmark")
    return trainer


def measure(trainer: TimedTrainer, num_steps: int, warm_up: int, peak: float | None) -> str:
    """Return one line: time, speed and memory of `num_steps` steps after `warm_up` others."""
    trainer.take_steps(warm_up)
    if trainer.accelerator.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before, began = trainer.account.trained(), time.monotonic()
    trainer.take_steps(num_steps)
    seconds = time.monotonic() - began
    done = {name: value - before[name] for name, value in trainer.account.trained().items()}
    parts = [
        f"{1e3 * seconds / num_steps:.0f} ms a step",
        f"{done['num_tokens'] / seconds:,.0f} tokens/s",
        f"{done['flops'] / seconds / 1e12:.3g} TFLOP/s",
    ]
    if peak is not None:
        parts.append(f"{done['flops'] / seconds / peak:.1%} of the peak")
    if trainer.accelerator.device.type == "cuda":
        parts.append(f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    return ", ".join(parts)


def profile_of(step: Callable[[], None]) -> str:
    """Return where the time of one step goes, the dearest operations first."""
    is_on_gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_on_gpu else [])]
    with profile(activities=activities) as recorded:
        step()
    key = "self_cuda_time_total" if is_on_gpu else "self_cpu_time_total"
    return recorded.key_averages().table(sort_by=key, row_limit=12, max_name_column_width=50)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every variant and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="Of every variant.")
    parser.add_argument("--variant", nargs="*", action="append", default=[], help="a.b=c, several of them.")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warm-up", type=int, default=4)
    parser.add_argument("--peak-flops-per-s", type=float, help="Of the device; 989e12: bf16 on an H100.")
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args(arguments)
    inputs = load_inputs(load_config(given.config, given.overrides))
    for variant in given.variant or [[]]:
        config = load_config(given.config, [*given.overrides, *variant])
        torch.set_num_threads(num_threads(config.training.threads))
        with tempfile.TemporaryDirectory() as directory:
            trainer = trainer_of(config, inputs, Path(directory))
            line = measure(trainer, given.steps, given.warm_up, given.peak_flops_per_s)
            print(f"{' '.join(variant) or 'as configured'}: {line}", flush=True)
            if given.profile:
                print(profile_of(lambda trainer=trainer: trainer.take_steps(1)))
        del trainer
    return 0


if __name__ == "__main__":
    sys.exit(main())
