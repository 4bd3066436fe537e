"""One roll-out's training: `accelerate launch -m tasks.workers.train rollout_spec.json`."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from tasks.algorithm.state import CheckpointKey
from tasks.contracts import CheckpointRef, RolloutResult, RolloutSpec
from tasks.data.randomness import seed_from
from tasks.record.checkpoints import checkpoint_directory, published_checkpoints, reference_to
from tasks.record.progress import ProgressFile
from tasks.runtime.files import write_file
from tasks.workers.model import (
    AVERAGE,
    WEIGHTS,
    device_name,
    load_base,
    load_weights,
    shape_of,
    trained_names,
)
from tasks.workers.supervisor import Preempted, StopFlag, run_worker
from tasks.workers.training.accounting import IntervalAccount, Step
from tasks.workers.training.attention import use_packed_attention
from tasks.workers.training.averaging import WeightAverage
from tasks.workers.training.batches import Draw, chain_hash
from tasks.workers.training.checkpoint import (
    OPTIMIZER,
    gather_moments,
    gather_weights,
    load_optimizer,
    newest_whole,
    publish_checkpoint,
    read_trainer,
    step_of,
)
from tasks.workers.training.optimization import adamw, learning_rate_at
from tasks.workers.training.packing import check_packing
from tasks.workers.training.policies import worker_policy
from tasks.workers.training.stepping import Stepper
from tasks.workers.training.timestamps import ClockReadings


class Trainer:
    """Runs the optimizer steps of one roll-out and publishes its checkpoints.

    Everything random is drawn from a seed of (search, round, step, rank), and the data order is a pure
    function, so a roll-out that was killed and started again takes the very same steps.
    """

    def __init__(self, spec: RolloutSpec) -> None:
        self.spec = spec
        self.output = Path(spec.output_directory)
        self.stop = StopFlag()
        self.accelerator = Accelerator(mixed_precision="bf16" if spec.training.precision == "bf16" else "no")
        self.policy = worker_policy(spec)
        self.publish_at = {spec.first_step + offset for offset in spec.mixture.evaluation_offsets}
        self.wanted = self.publish_at | ({0} if spec.start is None else set())
        self.step = spec.first_step
        before = spec.start.cursors if spec.start is not None else {}
        self.cursors = {**before, **{part.name: part.cursor for part in spec.mixture.draws}}
        self.batch_hash = ""
        self.flops_at_start = 0.0
        self.readings = ClockReadings(self.output)
        self.account = IntervalAccount([part.name for part in spec.mixture.draws], self.accelerator)
        self._load()

    def run(self) -> None:
        """Train to the end of the roll-out, or to the end of the step in which SIGTERM came."""
        num_steps = self.spec.mixture.num_steps
        device = device_name(self.accelerator.device, self.accelerator.num_processes)
        self.progress = ProgressFile(self.output, self.step - self.spec.first_step, num_steps, device)
        if self.accelerator.is_main_process:
            self.progress.note_restart(self.account.trained())
        while self.step < self.spec.first_step + num_steps:
            self._train_step(self.policy.rows(self.step - self.spec.first_step, self.cursors))
            if self.step in self.publish_at:
                self._close_interval()
                self._publish()
            if self._is_told_to_stop():
                self._publish()
                raise Preempted
        if self.accelerator.is_main_process:
            self._write_result()

    def _load(self) -> None:
        """Load the newest checkpoint of this roll-out, or else the one it starts from, or the base model."""
        spec = self.spec
        own = newest_whole(self.output, self.wanted) if self.accelerator.is_main_process else None
        own = _from_rank_0(self.accelerator, own)
        start = own or (Path(spec.start_directory) if spec.start_directory is not None else None)
        model = load_base(spec.model)
        if start is not None:
            load_weights(model, start)
        is_packed = spec.training.batching == "packed"
        if is_packed:
            use_packed_attention(model, spec.model, self.accelerator.device, spec.training.precision)
        self.names = trained_names(model)
        self.shape = shape_of(model)
        model.train()
        self.model, self.optimizer = self.accelerator.prepare(model, adamw(model, spec))
        self.stepper = Stepper(spec, self.accelerator, self.model, self.optimizer)
        if is_packed:
            check_packing(self.stepper)
        if start is not None and (own is not None or spec.optimizer == "restore"):
            load_optimizer(self.model, self.optimizer.optimizer, start)
        decay = spec.training.ema
        self.average = WeightAverage(self.model, decay) if decay is not None else None
        if self.average is not None and start is not None:
            self.average.restore(start)
        if own is not None:
            self._restore(read_trainer(own))
        else:
            self.policy.begin(self._answered)
            if spec.start is None:
                self._publish()

    def _restore(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.cursors = state["cursors"]
        self.batch_hash = state["batch_hash"]
        self.account.restore(state)
        self.policy.restore(state["policy"])

    def _train_step(self, rows: Sequence[Draw]) -> None:
        """Take one optimizer step on those of the rows that the method trains, and measure the others."""
        began = time.monotonic()
        torch.manual_seed(
            seed_from(self.spec.seed, self.spec.mixture.round, self.step, self.accelerator.process_index)
        )
        step = self.stepper.measure(rows, self.step + 1)
        losses = self.stepper.no_losses(step)
        left_out = [i for i, draw in enumerate(rows) if self.policy.is_left_out(draw)]
        trained = sorted(set(range(len(rows))) - set(left_out))
        self.flops, self.flops_at_start = self.flops_at_start, 0.0
        self.flops += step.cost(trained).training_flops(self.shape)
        self.flops += step.cost(left_out).forward_flops(self.shape)
        if left_out:
            self.stepper.watch(step, left_out, losses)
        if trained:
            self.stepper.descend(step, trained, losses)
        self.step += 1
        if self.average is not None:
            self.average.update(self.step)
        self.batch_hash = chain_hash(self.batch_hash, rows)
        for draw in rows:
            self.cursors[self.spec.mixture.draws[draw.sub_dataset].name] += 1
        self.policy.after_step(rows, self._row_losses(step, losses), self._look_ahead)
        self.account.add_step(step, self.flops, time.monotonic() - began)
        if self.accelerator.is_main_process:
            self._report_progress()

    def _answered(self, rows: Sequence[Draw]) -> Sequence[bool]:
        """Say of each row whether it is answered as labelled; the work goes on the first step's account."""
        step = self.stepper.measure(rows, self.step + 1)
        self.flops_at_start = step.cost(range(len(rows))).forward_flops(self.shape)
        with self.average.in_place() if self.average is not None else nullcontext():
            return self.stepper.answered(step)

    def _look_ahead(self, rows: Sequence[Draw]) -> tuple[float, float]:
        """Return the loss of `rows` before and after a step on them; it costs FLOPs, but none of the budget."""
        before, after, work = self.stepper.look_ahead(rows, self.step + 1)
        self.flops += work.training_flops(self.shape) + work.forward_flops(self.shape)
        return before, after

    def _row_losses(self, step: Step, losses: torch.Tensor) -> list[float]:
        """Put this process's losses on account, and return every row's mean a token where the policy wants it."""
        owners = torch.tensor([draw.sub_dataset for draw in step.rows], device=losses.device)
        self.account.add_losses(owners, losses)
        if not self.policy.watches_rows:
            return []
        sums = self.accelerator.reduce(losses, reduction="sum").tolist()
        return [total / max(1, count) for total, count in zip(sums, step.counts, strict=True)]

    def _report_progress(self) -> None:
        done, sums = self.step - self.spec.first_step, self.account.sums
        if self.progress.is_due(done):
            rate = sums["num_tokens"] / max(sums["seconds"], 1e-9)
            self.progress.report(done, self.account.mean_loss(), rate, self.account.trained())

    def _close_interval(self) -> None:
        if self.accelerator.is_main_process:
            _, self.account.sums["seconds"] = self.readings.keep(self.step, self.account.sums["seconds"])
        key = CheckpointKey(self.spec.mixture.round, self.step)
        self.account.close(key, learning_rate_at(self.spec, self.step - 1), self.batch_hash)

    def _publish(self) -> None:
        """Publish the state between two optimizer steps; nothing else is ever saved."""
        self.account.gather()
        tensors = {
            WEIGHTS: gather_weights(self.model, self.names),
            OPTIMIZER: gather_moments(self.model, self.optimizer.optimizer),
        }
        if self.average is not None:
            with self.average.in_place():
                tensors[AVERAGE] = gather_weights(self.model, self.names)
        if self.accelerator.is_main_process:
            trainer = {
                "step": self.step,
                "cursors": self.cursors,
                "batch_hash": self.batch_hash,
                "num_processes": self.accelerator.num_processes,
                "policy": self.policy.state(),
                **self.account.state(),
            }
            key = CheckpointKey(self.spec.mixture.round, self.step)
            published_at_ms, _ = self.readings.keep(self.step, 0.0)
            directory = checkpoint_directory(self.output, self.step)
            publish_checkpoint(directory, key, tensors, trainer, published_at_ms)
        self.accelerator.wait_for_everyone()

    def _is_told_to_stop(self) -> bool:
        if self.accelerator.num_processes == 1:
            return self.stop.is_set
        flag = torch.tensor([float(self.stop.is_set)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, reduction="sum").item())

    def _write_result(self) -> None:
        """Write the result last: without this file the roll-out did not happen."""
        spec = self.spec
        search_directory = self.output.parents[1]
        checkpoints: list[CheckpointRef] = []
        for directory in published_checkpoints(self.output):
            if step_of(directory) in self.wanted:
                checkpoints.append(reference_to(directory, search_directory))
            else:  # saved on SIGTERM between two evaluations; no longer needed
                shutil.rmtree(directory)
        start = spec.start.key if spec.start is not None else checkpoints[0].key
        result = RolloutResult(
            round=spec.mixture.round,
            start=start,
            checkpoints=tuple(checkpoints),
            intervals=tuple(self.account.closed),
        )
        write_file(self.output / "rollout_result.json", result.model_dump_json(indent=1))


def _from_rank_0(accelerator: Accelerator, value: Path | None) -> Path | None:
    if accelerator.num_processes == 1:
        return value
    from accelerate.utils import broadcast_object_list

    box = [str(value) if value is not None else None]
    broadcast_object_list(box)
    return Path(box[0]) if box[0] is not None else None


def train(spec_path: Path) -> None:
    """Run the roll-out that the spec describes."""
    spec = RolloutSpec.model_validate_json(spec_path.read_text())
    trainer = Trainer(spec)
    trainer.run()
    if trainer.accelerator.num_processes > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(run_worker(train, Path(sys.argv[1])))
