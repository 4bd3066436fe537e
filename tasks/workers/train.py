"""One roll-out's training: `accelerate launch -m tasks.workers.train rollout_spec.json`."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from tasks.algorithm.state import CheckpointKey
from tasks.contracts import CheckpointRef, IntervalStats, RolloutResult, RolloutSpec
from tasks.errors import NonFiniteLossError
from tasks.manifest import checkpoint_directory, write_json
from tasks.progress import ProgressFile
from tasks.randomness import seed_from
from tasks.workers.batches import Draw, RowStore, chain_hash, micro_batches, plan_steps
from tasks.workers.checkpoint import (
    gather_state,
    load_optimizer,
    newest_whole,
    publish_checkpoint,
    read_trainer,
    reference_to,
    step_of,
)
from tasks.workers.forward import collate, supports_logit_positions, token_logits, token_losses
from tasks.workers.lifeline import Preempted, StopFlag, run_worker
from tasks.workers.model import load_base, load_weights, shape_of, trained_names
from tasks.workers.optimisation import adamw, learning_rate_at


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
        self.stores = [RowStore(part.train) for part in spec.mixture.draws]
        self.steps = plan_steps(spec.mixture, spec.seed, spec.training.batch_size)
        self.publish_at = {spec.first_step + offset for offset in spec.mixture.evaluation_offsets}
        self.wanted = self.publish_at | ({0} if spec.start is None else set())
        self.step = spec.first_step
        before = spec.start.cursors if spec.start is not None else {}
        self.cursors = {**before, **{part.name: part.cursor for part in spec.mixture.draws}}
        self.batch_hash = ""
        self.intervals: list[IntervalStats] = []
        self.sums: dict[str, Any] = {}
        self._open_interval()
        self._load()

    def run(self) -> None:
        """Train to the end of the roll-out, or to the end of the step in which SIGTERM came."""
        self.progress = ProgressFile(self.output, self.step - self.spec.first_step, len(self.steps))
        if self.accelerator.is_main_process:
            self.progress.note_restart(self._trained())
        while self.step < self.spec.first_step + len(self.steps):
            self._train_step(self.steps[self.step - self.spec.first_step])
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
        self.names = trained_names(model)
        self.shape = shape_of(model)
        self.keeps_logits = supports_logit_positions(model)
        model.train()
        self.model, self.optimizer = self.accelerator.prepare(model, adamw(model, spec))
        if start is not None and (own is not None or spec.optimizer == "restore"):
            load_optimizer(self.model, self.optimizer.optimizer, start)
        if own is not None:
            self._restore(read_trainer(own))
        elif spec.start is None:
            self._publish()

    def _restore(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.cursors = state["cursors"]
        self.batch_hash = state["batch_hash"]
        self.intervals = [IntervalStats.model_validate(interval) for interval in state["intervals"]]
        self.sums = state["interval"]

    def _train_step(self, rows: Sequence[Draw]) -> None:
        """Take one optimizer step on `rows`; the loss is the mean over all their supervised tokens."""
        training, accelerator = self.spec.training, self.accelerator
        began = time.monotonic()
        torch.manual_seed(
            seed_from(self.spec.seed, self.spec.mixture.round, self.step, accelerator.process_index)
        )
        lengths = [self.stores[draw.sub_dataset].length(draw.row) for draw in rows]
        counts = [int(self.stores[draw.sub_dataset].row(draw.row)[1][1:].sum()) for draw in rows]
        parts = micro_batches(
            rows,
            lengths,
            training.micro_batch_size,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            by_length=training.batching != "padded",
        )
        self._set_learning_rate()
        for index, part in enumerate(parts):
            if index + 1 < len(parts):
                with accelerator.no_sync(self.model):
                    self._backward(part, sum(counts))
            else:
                self._backward(part, sum(counts))
        norm = accelerator.clip_grad_norm_(self.model.parameters(), training.max_grad_norm)
        if not math.isfinite(float(norm)):
            names = sorted({self.spec.mixture.draws[draw.sub_dataset].name for draw in rows})
            raise NonFiniteLossError(self.step + 1, float(norm), names)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._count(rows, lengths, counts, time.monotonic() - began)

    def _backward(self, part: Sequence[Draw], num_supervised: int) -> None:
        rows = [self.stores[draw.sub_dataset].row(draw.row) for draw in part]
        batch = collate(rows, self.accelerator.device, packed=self.spec.training.batching == "packed")
        with self.accelerator.autocast():
            logits = token_logits(self.model, batch, at_positions=self.keeps_logits)
        losses = token_losses(logits, batch)
        # Processes average their gradients, so each scales its sum by their number.
        self.accelerator.backward(losses.sum() * self.accelerator.num_processes / num_supervised)
        if part:
            owner = torch.tensor([draw.sub_dataset for draw in part], device=losses.device)[batch.row_of]
            self.loss_sums.index_add_(0, owner.flatten(), losses.detach().flatten().double())

    def _set_learning_rate(self) -> None:
        rate = learning_rate_at(self.spec, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _count(self, rows: Sequence[Draw], lengths: list[int], counts: list[int], seconds: float) -> None:
        """Add one step to the open interval; every rank counts the whole step, so the numbers are global."""
        self.step += 1
        self.batch_hash = chain_hash(self.batch_hash, rows)
        sums = self.sums
        for draw, count in zip(rows, counts, strict=True):
            name = self.spec.mixture.draws[draw.sub_dataset].name
            self.cursors[name] += 1
            sums["supervised"][name] += count
        sums["num_tokens"] += sum(lengths)
        sums["num_pairs"] += sum(length * length for length in lengths)
        sums["num_examples"] += len(rows)
        sums["seconds"] += seconds
        if self.accelerator.is_main_process:
            self._report_progress()

    def _report_progress(self) -> None:
        step = self.step - self.spec.first_step
        if self.progress.is_due(step):
            rate = self.sums["num_tokens"] / max(self.sums["seconds"], 1e-9)
            self.progress.report(step, self._mean_loss(), rate, self._trained())

    def _trained(self) -> dict[str, float]:
        """Return what has been trained since the roll-out's start, the open interval included."""
        sums = self.sums
        flops = self.shape.training_flops(
            sums["num_tokens"], sums["num_pairs"], sum(sums["supervised"].values())
        )
        names = ("num_tokens", "num_examples", "flops", "seconds")
        closed = {name: sum(getattr(interval, name) for interval in self.intervals) for name in names}
        return {name: closed[name] + (flops if name == "flops" else sums[name]) for name in names}

    def _mean_loss(self) -> float:
        """Return the interval's loss so far, as this process sees it."""
        own = float(self.loss_sums.sum()) * self.accelerator.num_processes
        gathered: float = sum(self.sums["loss_sums"].values())
        return float((own + gathered) / max(1, sum(self.sums["supervised"].values())))

    def _open_interval(self) -> None:
        names = [part.name for part in self.spec.mixture.draws]
        self.sums = {
            "num_tokens": 0,
            "num_pairs": 0,
            "num_examples": 0,
            "seconds": 0.0,
            "supervised": dict.fromkeys(names, 0),
            "loss_sums": dict.fromkeys(names, 0.0),
        }
        self.loss_sums = torch.zeros(len(names), dtype=torch.float64, device=self.accelerator.device)

    def _gather_losses(self) -> None:
        """Move the loss sums of all processes into the interval's plain numbers."""
        total = self.accelerator.reduce(self.loss_sums, reduction="sum").tolist()
        for part, value in zip(self.spec.mixture.draws, total, strict=True):
            self.sums["loss_sums"][part.name] += value
        self.loss_sums.zero_()

    def _close_interval(self) -> None:
        self._gather_losses()
        sums = self.sums
        supervised = sums["supervised"]
        self.intervals.append(
            IntervalStats(
                key=CheckpointKey(self.spec.mixture.round, self.step),
                num_tokens=sums["num_tokens"],
                num_completion_tokens=sum(supervised.values()),
                num_examples=sums["num_examples"],
                flops=self.shape.training_flops(
                    sums["num_tokens"], sums["num_pairs"], sum(supervised.values())
                ),
                seconds=sums["seconds"],
                learning_rate=learning_rate_at(self.spec, self.step - 1),
                losses={name: sums["loss_sums"][name] / count for name, count in supervised.items() if count},
                batch_hash=self.batch_hash,
            )
        )
        self._open_interval()

    def _publish(self) -> None:
        """Publish the state between two optimizer steps; nothing else is ever saved."""
        self._gather_losses()
        weights, moments = gather_state(self.model, self.optimizer.optimizer, self.names)
        if self.accelerator.is_main_process:
            trainer = {
                "step": self.step,
                "cursors": self.cursors,
                "batch_hash": self.batch_hash,
                "num_processes": self.accelerator.num_processes,
                "intervals": [interval.model_dump(mode="json") for interval in self.intervals],
                "interval": self.sums,
            }
            key = CheckpointKey(self.spec.mixture.round, self.step)
            publish_checkpoint(checkpoint_directory(self.output, self.step), key, weights, moments, trainer)
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
        for directory in sorted((self.output / "checkpoints").glob("step-*")):
            if step_of(directory) in self.wanted:
                checkpoints.append(reference_to(directory, search_directory))
            else:  # saved on SIGTERM between two evaluations; no longer needed
                shutil.rmtree(directory)
        start = spec.start.key if spec.start is not None else checkpoints[0].key
        result = RolloutResult(
            round=spec.mixture.round,
            start=start,
            checkpoints=tuple(checkpoints),
            intervals=tuple(self.intervals),
        )
        write_json(self.output / "rollout_result.json", result.model_dump_json(indent=1))


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
