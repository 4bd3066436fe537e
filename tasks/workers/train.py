"""Train one roll-out: `accelerate launch -m tasks.workers.train rollout_spec.json`."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list

from tasks.algorithm.methods import METHODS
from tasks.algorithm.state import CheckpointKey
from tasks.contracts import RolloutSpec
from tasks.data.randomness import seed_from
from tasks.record.rollout import ProgressFile
from tasks.runtime.spans import span
from tasks.workers.kept import keep, leaves_room, take
from tasks.workers.model import device_name
from tasks.workers.supervisor import Preempted, StopFlag, run_worker
from tasks.workers.training.accounting import IntervalAccount, Step
from tasks.workers.training.batches import Draw, Position, seeding_round
from tasks.workers.training.checkpoint import (
    ReadFile,
    Timestamps,
    drop_earlier_states,
    file_reader,
    newest_whole,
    publish_checkpoint,
    read_trainer,
    write_result,
)
from tasks.workers.training.learner import Kept, load_learner, repeat_bits
from tasks.workers.training.memory import set_limit
from tasks.workers.training.optimization import learning_rate_at
from tasks.workers.training.packing import check_packing
from tasks.workers.training.policies import worker_policy
from tasks.workers.training.publishing import Files, HostCopies, Publisher, Snapshot, goes_behind
from tasks.workers.training.stepping import Stepper

_KIND = "learner"  # of what is kept from one roll-out to the next


class Trainer:
    """Takes the optimizer steps of one roll-out and publishes its checkpoints.

    Random numbers come from a seed of (search, round, step, rank), and the order of the data is a pure function, so a
    roll-out that is killed and started again takes exactly the same steps. The constructor loads the newest checkpoint
    of this roll-out, or else the one it starts from, or the base model; only `run` writes anything. The model and what
    belongs to it are kept for the next roll-out of the process.
    """

    def __init__(self, spec: RolloutSpec) -> None:
        self.spec = spec
        self.output = Path(spec.output_directory)
        self.stop = StopFlag()
        self._key = (spec.model, spec.training)
        # The base model's weights are not kept.
        kept: Kept | None = take(_KIND, self._key if spec.start is not None else None)
        # bf16 is in the weights: `training/masters.py`.
        self.accelerator = kept.learner.accelerator if kept is not None else Accelerator(mixed_precision="no")
        repeat_bits(self.accelerator.device)
        self.policy = worker_policy(spec)
        self.evaluated_steps = {spec.first_step + offset for offset in spec.mixture.evaluation_offsets}
        self.kept_steps = self.evaluated_steps | ({0} if spec.start is None else set())
        self.position = Position.at_start(spec)
        self.timestamps = Timestamps(self.output)
        self.account = IntervalAccount([part.name for part in spec.mixture.draws], self.accelerator)
        with span("model loading"):
            self._kept = kept or Kept(load_learner(spec, self.accelerator), HostCopies())
        self.learner = self._kept.learner
        self.is_resumed, self.restored_from = self._restore()
        self.stepper = Stepper(spec, self.accelerator, self.learner)
        if spec.training.batching == "packed":
            check_packing(self.stepper)
        set_limit(self.stepper)
        if self.accelerator.is_main_process:
            print(f"weights of step {self.position.step} from {self.restored_from}", flush=True)
        is_sharded = self.accelerator.distributed_type is DistributedType.FSDP
        self.publisher = Publisher(behind=goes_behind(self.accelerator.device) and not is_sharded)
        self._snapshot: Snapshot | None = None

    def run(self) -> None:
        """Train to the end of the roll-out, or to the end of the step in which SIGTERM comes.

        Raises:
            Preempted: SIGTERM came; the state after the last step is published.
        """
        hook = self.learner.optimizer.register_step_pre_hook(self._before_update)
        try:
            self._run()
        finally:
            hook.remove()
            self.publisher.close()
        if self.position.step not in self.evaluated_steps:
            self._kept.live = None
        if self._count(leaves_room(self.accelerator.device)) == self.accelerator.num_processes:
            keep(_KIND, self._key, self._kept)

    def _run(self) -> None:
        self.start_progress()
        if not self.is_resumed:
            self._begin()
        while self.position.step < self.spec.first_step + self.spec.mixture.num_steps:
            self.publisher.check()
            index = self.position.step - self.spec.first_step
            self.train_step(self.policy.rows(index, self.position.cursors))
            if self.position.step in self.evaluated_steps:
                self._close_interval()
                self._publish()
            if self._should_stop():
                self._publish()
                break
        self.publisher.wait()
        if self._should_stop():
            raise Preempted
        if self.accelerator.is_main_process:
            write_result(self.spec, self.kept_steps, self.account.closed)

    def _restore(self) -> tuple[bool, str]:
        """Go on from the newest checkpoint of this roll-out, else from the one that it starts from or the base model.

        Only rank 0 looks for the newest, and knows at which one the learner is.

        Returns:
            Whether the roll-out has begun before, and where the weights were found.
        """
        spec, kept = self.spec, self._kept
        found: list[Any] = [None, None]
        if self.accelerator.is_main_process:
            newest = newest_whole(self.output, self.kept_steps, all_have_state=METHODS[spec.method].goes_back)
            found = [newest, kept.live]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(found)
        (newest, live), kept.live = found, None
        if newest is not None:
            state = read_trainer(newest)
            self.position = Position(state["step"], state["cursors"], state["batch_hash"])
            self.account.restore(state)
            self.policy.restore(state["policy"])
            self.learner.restore(file_reader(newest), str(newest), with_optimizer=True)
            return True, "disk"
        if spec.start is None or spec.start_directory is None:
            return False, "the base model"
        held = kept.copies.find(spec.start.sha256)
        read: ReadFile | None = held.__getitem__ if held else file_reader(Path(spec.start_directory))
        where = "host memory" if held else "disk"
        if spec.start.sha256 == live:
            read, where = None, "memory, in place"
        self.learner.restore(read, spec.start_directory, with_optimizer=spec.optimizer == "restore")
        return False, where

    def _begin(self) -> None:
        """Show the starting weights to the policy, and publish them where they are the base model's."""
        self.policy.begin(self._answers)
        if self.spec.start is None:
            self.account.add_flops(self.spec.hidden_states_flops)
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
        flops = self.stepper.training_flops(step.cost(trained)) + self.stepper.forward_flops(step.cost(left_out))
        self.position.advance(rows, self.account.names)
        self.learner.update_average(self.position.step)
        self.account.add_losses(owners, losses)
        self.policy.after_step(rows, self._row_means(step, losses), self._look_ahead)
        self.account.add_step(step, flops, time.monotonic() - began)
        if self.accelerator.is_main_process:
            self._report_progress()

    def _seed(self) -> None:
        """Seed torch for the next step of this process: dropout draws the same numbers after a restart."""
        rank, device = self.accelerator.process_index, self.accelerator.device
        seed = seed_from(self.spec.seed, seeding_round(self.spec.mixture), self.position.step, rank)
        # torch.manual_seed also formats a traceback for each kind of device that is not in use: 3 % of a small step.
        torch.default_generator.manual_seed(seed)
        if device.type != "cpu":
            torch.get_device_module(device).manual_seed(seed)

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
        self.account.add_flops(self.stepper.forward_flops(step.cost(range(len(rows)))))
        with self.learner.averaged():
            return self.stepper.answered(step)

    def _look_ahead(self, rows: Sequence[Draw]) -> tuple[float, float]:
        """Return the loss of `rows` before and after a step on them; it costs FLOPs but none of the budget."""
        before, after, work = self.stepper.look_ahead(rows, self.position.step + 1)
        self.account.add_flops(self.stepper.training_flops(work) + self.stepper.forward_flops(work))
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
        self.account.close(self._checkpoint_key(), learning_rate, self.position.batch_hash, seconds)

    def _before_update(self, *_: Any) -> None:
        if self._snapshot is not None:
            self._snapshot.hold_back()

    @span("checkpoint writing")
    def _publish(self) -> None:
        """Publish the state between two optimizer steps; no other state is saved, and none after a bad gradient."""
        self.stepper.check()
        self.account.gather()
        files = self.learner.tensors()
        if self.accelerator.is_main_process:
            self._start_publishing(files)
        self.accelerator.wait_for_everyone()

    def _start_publishing(self, files: Files) -> None:
        trainer = {
            **self.position.state(),
            "num_processes": self.accelerator.num_processes,
            "policy": self.policy.state(),
            **self.account.state(),
        }
        published_at_ms, _ = self.timestamps.keep(self.position.step, 0.0)
        key, trainer, kept = self._checkpoint_key(), copy.deepcopy(trainer), self._kept
        self.publisher.wait()
        snapshot = Snapshot(files, self.accelerator.device) if self.publisher.behind else None
        self._snapshot = snapshot

        def publish() -> None:
            content = snapshot.wait() if snapshot is not None else files
            kept.live = publish_checkpoint(self.output, key, content, trainer, published_at_ms)
            if not METHODS[self.spec.method].goes_back:
                drop_earlier_states(self.output, key.step)
            if snapshot is not None and kept.live is not None and self.accelerator.num_processes == 1:
                kept.copies.keep(kept.live, content)

        self.publisher.start(publish)

    def _checkpoint_key(self) -> CheckpointKey:
        return CheckpointKey(self.spec.mixture.round, self.position.step)

    def _should_stop(self) -> bool:
        """Return whether any process has received SIGTERM."""
        return self._count(self.stop.is_set) > 0

    def _count(self, holds: bool) -> int:
        """Return in how many processes something holds."""
        if self.accelerator.num_processes == 1:
            return int(holds)
        flag = torch.tensor([float(holds)], device=self.accelerator.device)
        return int(self.accelerator.reduce(flag, reduction="sum").item())


def train(spec_path: Path) -> None:
    """Run the roll-out of a spec."""
    Trainer(RolloutSpec.model_validate_json(spec_path.read_text())).run()


if __name__ == "__main__":
    sys.exit(run_worker(train, Path(sys.argv[1])))
