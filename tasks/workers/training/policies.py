"""Changes of a method inside the worker: the rows that a step draws, and those of them that it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tasks.algorithm.baselines import Dynamix, Ies
from tasks.algorithm.methods import policy_of
from tasks.contracts import RolloutSpec
from tasks.data.randomness import random_state
from tasks.workers.training.batches import Draw, plan_steps, stream

# Takes a step on some rows and undoes it; returns their mean loss a token before and after, in nats.
LookAhead = Callable[[Sequence[Draw]], tuple[float, float]]
# Returns for each row whether the model, with averaged weights if it has them, gives the labelled answer.
Answered = Callable[[Sequence[Draw]], Sequence[bool]]


class ByPlan:
    """Draws the rows as the mixture plans them, and trains all of them."""

    watches_rows = False

    def __init__(self, spec: RolloutSpec) -> None:
        self.spec = spec
        self._steps: list[list[Draw]] | None = None

    def rows(self, index: int, cursors: Mapping[str, int]) -> list[Draw]:
        """Return the rows of optimizer step `index` of the roll-out, counted from 0."""
        if self._steps is None:
            self._steps = plan_steps(self.spec.mixture, self.spec.seed, self.spec.training.batch_size)
        return self._steps[index]

    def begin(self, answered: Answered) -> None:
        """Inspect rows once, with the weights that the roll-out starts from."""

    def is_left_out(self, draw: Draw) -> bool:
        """Return whether the row's loss is only measured."""
        return False

    def after_step(self, rows: Sequence[Draw], losses: Sequence[float], look_ahead: LookAhead) -> None:
        """Update from the mean loss a token of each row; `losses` is empty unless `watches_rows`."""

    def state(self) -> dict[str, Any]:
        """Return the entries of a checkpoint; JSON."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from the entries of a checkpoint."""


class AdaptiveSampling(ByPlan):
    """DynamixSFT: draws the sub-dataset of each row by shares that look-aheads update."""

    def __init__(self, spec: RolloutSpec, policy: Dynamix) -> None:
        super().__init__(spec)
        self._policy = policy
        self._values = {part.name: 0.0 for part in spec.mixture.draws}
        self._num_steps = 0
        self._cursors: Mapping[str, int] = {}

    def rows(self, index: int, cursors: Mapping[str, int]) -> list[Draw]:
        """Return as many rows as the plan has, each from the cursor of its sub-dataset's stream."""
        mixture, size = self.spec.mixture, self.spec.training.batch_size
        self._cursors = cursors
        prior = {part.name: part.rows_per_epoch / mixture.epoch_rows for part in mixture.draws}
        shares = self._policy.shares(self._values, prior)
        count = min(size, mixture.num_rows - index * size)
        lot = random_state(self.spec.seed, "sample", mixture.round, index)
        owners = lot.choice(len(mixture.draws), size=count, p=[shares[part.name] for part in mixture.draws])
        streams = {owner: iter(self._ahead(owner, count)) for owner in set(owners.tolist())}
        return [next(streams[owner]) for owner in owners.tolist()]

    def after_step(self, rows: Sequence[Draw], losses: Sequence[float], look_ahead: LookAhead) -> None:
        """Update the shares at intervals, by a look-ahead on the next batch of each sub-dataset."""
        self._num_steps += 1
        if self._num_steps % self._policy.every_steps:
            return
        size = self.spec.training.batch_size
        gains = {part.name: look_ahead(self._ahead(owner, size)) for owner, part in enumerate(self.spec.mixture.draws)}
        before = {name: pair[0] for name, pair in gains.items()}
        self._values = self._policy.update(self._values, before, {n: pair[1] for n, pair in gains.items()})

    def _ahead(self, owner: int, count: int) -> list[Draw]:
        part = self.spec.mixture.draws[owner]
        return stream(owner, part, self._cursors[part.name], count, self.spec.seed)

    def state(self) -> dict[str, Any]:
        """Return the value of each sub-dataset and the number of steps."""
        return {"values": self._values, "num_steps": self._num_steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from the entries of a checkpoint."""
        self._values, self._num_steps = dict(state["values"]), state["num_steps"]


class InstanceMasking(ByPlan):
    """IES: measures the loss of mastered rows without training them."""

    watches_rows = True

    def __init__(self, spec: RolloutSpec, policy: Ies) -> None:
        super().__init__(spec)
        self._policy = policy
        self._losses: dict[str, list[float]] = {}  # by "sub-dataset:row", indices in this mixture

    def is_left_out(self, draw: Draw) -> bool:
        """Return whether the row is mastered."""
        return self._policy.is_mastered(self._losses.get(f"{draw.sub_dataset}:{draw.row}", []))

    def after_step(self, rows: Sequence[Draw], losses: Sequence[float], look_ahead: LookAhead) -> None:
        """Keep the newest losses of each row."""
        for draw, loss in zip(rows, losses, strict=True):
            key = f"{draw.sub_dataset}:{draw.row}"
            self._losses[key] = [*self._losses.get(key, []), loss][-self._policy.num_kept :]

    def state(self) -> dict[str, Any]:
        """Return the kept losses."""
        return {"losses": self._losses}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from the entries of a checkpoint."""
        self._losses = dict(state["losses"])


class AnsweredRehearsal(ByPlan):
    """Rehearses those rows of excluded sub-datasets that the model answers correctly."""

    def __init__(self, spec: RolloutSpec) -> None:
        super().__init__(spec)
        self._left_out: set[tuple[int, int]] = set()

    def begin(self, answered: Answered) -> None:
        """Find the rows that the starting weights do not answer correctly."""
        draws = [
            Draw(index, row)
            for index, part in enumerate(self.spec.mixture.draws)
            if part.is_rehearsed
            for row in range(part.train.num_rows)
        ]
        if draws:
            is_right = answered(draws)
            self._left_out = {
                (draw.sub_dataset, draw.row) for draw, right in zip(draws, is_right, strict=True) if not right
            }

    def is_left_out(self, draw: Draw) -> bool:
        """Return whether the starting weights do not answer the row correctly."""
        return (draw.sub_dataset, draw.row) in self._left_out

    def state(self) -> dict[str, Any]:
        """Return the rows that are left out."""
        return {"left_out": sorted(self._left_out)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from the entries of a checkpoint."""
        self._left_out = {(sub_dataset, row) for sub_dataset, row in state["left_out"]}


def worker_policy(spec: RolloutSpec) -> ByPlan:
    """Return the policy of the roll-out's method."""
    policy = policy_of(spec.method, spec.options)
    if isinstance(policy, Dynamix):
        return AdaptiveSampling(spec, policy)
    if isinstance(policy, Ies):
        return InstanceMasking(spec, policy)
    return AnsweredRehearsal(spec) if spec.options.get("rehearse") == "correct" else ByPlan(spec)
