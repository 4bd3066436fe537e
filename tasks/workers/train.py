"""Train one roll-out: `accelerate launch -m tasks.workers.train rollout_spec.json`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from tasks.algorithm.state import CheckpointKey
from tasks.contracts import RolloutSpec
from tasks.data.randomness import seed_from
from tasks.record.rollout import ProgressFile
from tasks.workers.model import device_name
from tasks.workers.supervisor import Preempted, StopFlag, run_worker
from tasks.workers.training.accounting import IntervalAccount, Step
from tasks.workers.training.batches import Draw, Position
from tasks.workers.training.checkpoint import Timestamps, newest_whole, publish_checkpoint, read_trainer, write_result
from tasks.workers.training.learner import load_learner
from tasks.workers.training.optimization import learning_rate_at
from tasks.workers.training.packing import check_packing
from tasks.workers.training.policies import worker_policy
from tasks.workers.training.stepping import Stepper


class Trainer:
    """Takes the optimizer steps of one roll-out and publishes its checkpoints.

    Random numbers come from a seed of (search, round, step, rank), and the order of the data is a pure function, so a
    roll-out that is killed and started again takes exactly the same steps. The constructor loads the newest checkpoint
    of this roll-out, or else the one it starts from, or the base model; only `run` writes anything.
    """

    def __init__(self, spec: RolloutSpec) -> None:
        self.spec = spec
        self.output = Path(spec.output_directory)
        self.stop = StopFlag()
        self.accelerator = Accelerator(mixed_precision="bf16" if spec.training.precision == "bf16" else "no")
        self.policy = worker_policy(spec)
        self.evaluated_steps = {spec.first_step + offset for offset in spec.mixture.evaluation_offsets}
        self.kept_steps = self.evaluated_steps | ({0} if spec.start is None else set())
        self.position = Position.at_start(spec)
        self.timestamps = Timestamps(self.output)
        self.account = IntervalAccount([part.name for part in spec.mixture.draws], self.accelerator)
        resumed_from = self._newest_checkpoint()
        self.is_resumed = resumed_from is not None
        self.learner = load_learner(spec, self.accelerator, resumed_from)
        self.stepper = Stepper(spec, self.accelerator, self.learner.model, self.learner.optimizer)
        if spec.training.batching == "packed":
            check_packing(self.stepper)
        if resumed_from is not None:
            self._restore(read_trainer(resumed_from))

    def run(self) -> None:
        """Train to the end of the roll-out, or to the end of the step in which SIGTERM comes.

        Raises:
            Preempted: SIGTERM came; the state after the last step is published.
        """
        self.start_progress()
        if not self.is_resumed:
            self._begin()
        while self.position.step < self.spec.first_step + self.spec.mixture.num_steps:
            index = self.position.step - self.spec.first_step
            self.train_step(self.policy.rows(index, self.position.cursors))
            if self.position.step in self.evaluated_steps:
                self._close_interval()
                self._publish()
            if self._should_stop():
                self._publish()
                raise Preempted
        if self.accelerator.is_main_process:
            write_result(self.spec, self.kept_steps, self.account.closed)

    def _newest_checkpoint(self) -> Path | None:
        """Return the checkpoint of this roll-out to resume from, as rank 0 finds it."""
        found = newest_whole(self.output, self.kept_steps) if self.accelerator.is_main_process else None
        if self.accelerator.num_processes == 1:
            return found
        from accelerate.utils import broadcast_object_list

        box = [str(found) if found is not None else None]
        broadcast_object_list(box)
        return Path(box[0]) if box[0] is not None else None

    def _restore(self, state: dict[str, Any]) -> None:
        self.position = Position(state["step"], state["cursors"], state["batch_hash"])
        self.account.restore(state)
        self.policy.restore(state["policy"])

    def _begin(self) -> None:
        """Show the starting weights to the policy, and publish them where they are the base model's."""
        self.policy.begin(self._answers)
        if self.spec.start is None:
            self._publish()

    def start_progress(self) -> None:
        """Begin the progress file, after an entry for the work that a killed worker loses."""
        done = self.position.step - self.spec.first_step
        device = device_name(self.accelerator.device, self.accelerator.num_processes)
        self.progress = ProgressFile(self.output, done, self.spec.mixture.num_steps, device)
        if self.accelerator.is_main_process:
            self.progress.note_restart(self.account.trained())

    def train_step(self, rows: Sequence[Draw]) -> None:
        """Take one optimizer step on the rows that the policy trains, and measure the loss of the others."""
        began = time.monotonic()
        self._seed()
        step = self.stepper.measure(rows, self.position.step + 1)
        left_out = [i for i, draw in enumerate(rows) if self.policy.is_left_out(draw)]
        trained = [i for i, draw in enumerate(rows) if not self.policy.is_left_out(draw)]
        losses, owners = self.stepper.take(step, trained, left_out)
        shape = self.learner.shape
        flops = step.cost(trained).training_flops(shape) + step.cost(left_out).forward_flops(shape)
        self.position.advance(rows, self.account.names)
        self.learner.update_average(self.position.step)
        self.account.add_losses(owners, losses)
        self.policy.after_step(rows, self._row_means(step, losses), self._look_ahead)
        self.account.add_step(step, flops, time.monotonic() - began)
        if self.accelerator.is_main_process:
            self._report_progress()

    def _seed(self) -> None:
        """Seed torch for the next step of this process: dropout draws the same numbers after a restart."""
        rank = self.accelerator.process_index
        torch.manual_seed(seed_from(self.spec.seed, self.spec.mixture.round, self.position.step, rank))

    def _row_means(self, step: Step, losses: torch.Tensor) -> list[float]:
        """Return each row's mean loss a token over all processes; empty where the policy does not want them."""
        if not self.policy.watches_rows:
            return []
        self.stepper.check()
        sums = self.accelerator.reduce(losses, reduction="sum").tolist()
        return [total / max(1, count) for total, count in zip(sums, step.counts, strict=True)]

    def _answers(self, rows: Sequence[Draw]) -> Sequence[bool]:
        """Return for each row whether the model, with averaged weights if it has them, gives the labelled answer."""
        step = self.stepper.measure(rows, self.position.step + 1)
        self.account.add_flops(step.cost(range(len(rows))).forward_flops(self.learner.shape))
        average = self.learner.average
        with average.in_place() if average is not None else nullcontext():
            return self.stepper.answered(step)

    def _look_ahead(self, rows: Sequence[Draw]) -> tuple[float, float]:
        """Return the loss of `rows` before and after a step on them; it costs FLOPs but none of the budget."""
        before, after, work = self.stepper.look_ahead(rows, self.position.step + 1)
        shape = self.learner.shape
        self.account.add_flops(work.training_flops(shape) + work.forward_flops(shape))
        return before, after

    def _report_progress(self) -> None:
        done = self.position.step - self.spec.first_step
        if self.progress.is_due(done):
            if self.accelerator.num_processes == 1:  # else all processes check at the next checkpoint
                self.stepper.check()
            account = self.account
            self.progress.report(done, account.mean_loss(), account.tokens_per_s(), account.trained())

    def _close_interval(self) -> None:
        self.stepper.check()
        seconds = self.account.interval.seconds
        if self.accelerator.is_main_process:
            _, seconds = self.timestamps.keep(self.position.step, seconds)
        learning_rate = learning_rate_at(self.spec, self.position.step - 1)
        self.account.close(self._key(), learning_rate, self.position.batch_hash, seconds)

    def _publish(self) -> None:
        """Publish the state between two optimizer steps; no other state is saved, and none after a bad gradient."""
        self.stepper.check()
        self.account.gather()
        tensors = self.learner.gather()
        if self.accelerator.is_main_process:
            trainer = {
                **self.position.state(),
                "num_processes": self.accelerator.num_processes,
                "policy": self.policy.state(),
                **self.account.state(),
            }
            published_at_ms, _ = self.timestamps.keep(self.position.step, 0.0)
            publish_checkpoint(self.output, self._key(), tensors, trainer, published_at_ms)
        self.accelerator.wait_for_everyone()

    def _key(self) -> CheckpointKey:
        return CheckpointKey(self.spec.mixture.round, self.position.step)

    def _should_stop(self) -> bool:
        """Return whether any process has received SIGTERM."""
        if self.accelerator.num_processes == 1:
            return self.stop.is_set
        flag = torch.tensor([float(self.stop.is_set)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, reduction="sum").item())


def train(spec_path: Path) -> None:
    """Run the roll-out of a spec."""
    Trainer(RolloutSpec.model_validate_json(spec_path.read_text())).run()


if __name__ == "__main__":
    sys.exit(run_worker(train, Path(sys.argv[1])))
