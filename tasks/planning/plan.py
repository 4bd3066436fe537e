"""Plan the cost of a search before it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import add
from pathlib import Path

from tasks.algorithm.baselines.dynamix import Dynamix
from tasks.algorithm.costs import RowCost
from tasks.config.schema import SearchConfig
from tasks.contracts import Inputs, Mixture, SubDatasetRef
from tasks.data.model_size import measure_model
from tasks.planning.row_costs import NOTHING, scoring_cost, training_cost
from tasks.planning.simulation import imagined_rounds
from tasks.record.plan import FILE, Plan, Work
from tasks.runtime.files import write_file

# AdamW keeps two moments a weight; all in float32.
_WEIGHT_BYTES, _MOMENT_BYTES = 4, 8


def make_plan(config: SearchConfig, inputs: Inputs) -> Plan:
    """Return what the search will cost, from the rounds that the mixing code would make.

    Which sub-dataset leaves when is what a search finds out. Expected is that in each round the one of middle size
    does: with equal sizes that costs C·(N+1)/2 epochs. The extremes are over courses in which none ever leaves, or
    the one of most or fewest rows, tokens or tokens a row does, to the last, or until one stays, on which the rest of
    the budget is then spent with the most evaluations.
    """
    sizes = _orders(inputs)
    expected = list(imagined_rounds(config, inputs, sizes[0], lambda active: active[(len(active) - 1) // 2]))
    walks = [expected, list(imagined_rounds(config, inputs, sizes[0], lambda active: None))]
    for order in sizes:
        walks.append(list(imagined_rounds(config, inputs, order, lambda active: active[0])))
        walks.append(
            list(imagined_rounds(config, inputs, order, lambda active: active[0] if active[1:] else None))
        )
    cost = _Cost(config, inputs)
    return Plan(
        num_sub_datasets=len(inputs.names),
        num_parameters=cost.size.num_parameters,
        num_trained=cost.size.num_trained,
        least=_extreme(min, [cost.work(walk, "least") for walk in walks]),
        expected=cost.work(expected, "expected"),
        most=_extreme(max, [cost.work(walk, "most") for walk in walks]),
    )


def _orders(inputs: Inputs) -> list[list[str]]:
    """Return the sub-datasets' names by rows, tokens, and tokens a row, each from the least and from the most."""
    keys: list[Callable[[SubDatasetRef], float]] = [
        lambda part: part.train.num_rows,
        lambda part: part.train.num_tokens,
        lambda part: part.train.num_tokens / part.train.num_rows,
    ]
    ascending = [[part.name for part in sorted(inputs.sub_datasets, key=key)] for key in keys]
    return [*ascending, *(order[::-1] for order in ascending)]


class _Cost:
    """What rounds cost on these inputs; every split is counted once."""

    def __init__(self, config: SearchConfig, inputs: Inputs) -> None:
        parts = inputs.sub_datasets
        self._copies = 2 if config.training.ema is not None else 1
        self._policy = config.search.policy()
        self._batch_size = config.training.batch_size
        self.size = measure_model(inputs.model)
        self._parts = parts
        self._num_rows = sum(part.train.num_rows for part in parts)
        self._per_row = {p.name: training_cost(p.train) * (1 / p.train.num_rows) for p in parts}
        self._scoring = {p.name: scoring_cost(p.validation, p.metric, p.max_new_tokens) for p in parts}

    def work(self, walk: Sequence[Mixture], bound: str) -> Work:
        """Return what the rounds of `walk` cost; `bound` says how much is generated in scoring."""
        costs: dict[str, RowCost] = {name: getattr(cost, bound) for name, cost in self._scoring.items()}
        drawn = [
            self._per_row[part.name] * (part.rows_per_epoch * mixture.num_rows / mixture.epoch_rows)
            for mixture in walk
            for part in mixture.draws
        ]
        training: RowCost = reduce(add, drawn, NOTHING)
        num_checkpoints = 1 + sum(
            len(mixture.evaluation_offsets) for mixture in walk
        )  # the base model's first
        evaluation = reduce(add, costs.values(), NOTHING) * num_checkpoints
        tested = [costs[p.name] * (p.num_test_rows / p.validation.num_rows) for p in self._parts]
        num_examples = sum(mixture.num_rows for mixture in walk)
        return Work(
            num_rounds=len(walk),
            num_epochs=num_examples / self._num_rows,
            num_steps=sum(mixture.num_steps for mixture in walk),
            num_examples=num_examples,
            num_checkpoints=num_checkpoints,
            training_tokens=training.num_tokens,
            training_flops=training.training_flops(self.size.shape) + self._look_ahead_flops(walk),
            evaluation_tokens=evaluation.num_tokens,
            evaluation_flops=evaluation.forward_flops(self.size.shape),
            test_flops=reduce(add, tested, NOTHING).forward_flops(self.size.shape),
            bytes_written=self._bytes_of(num_checkpoints - 1, num_untrained=1),
            disk_bytes=self._disk_bytes(walk),
        )

    def _look_ahead_flops(self, walk: Sequence[Mixture]) -> float:
        """Return what DynamixSFT pays for its look-aheads: every so often a step on a batch of each, and a loss."""
        if not isinstance(self._policy, Dynamix):
            return 0.0
        num_updates = sum(mixture.num_steps // self._policy.every_steps for mixture in walk)
        rows = reduce(add, self._per_row.values(), NOTHING) * (num_updates * self._batch_size)
        return rows.training_flops(self.size.shape) + rows.forward_flops(self.size.shape)

    def _bytes_of(self, num_checkpoints: int, num_untrained: int = 0) -> int:
        """Return the bytes of checkpoints: weights, their moving average, moments; the base model has no moments."""
        weights = self._copies * _WEIGHT_BYTES
        return (num_checkpoints * (weights + _MOMENT_BYTES) + num_untrained * weights) * self.size.num_trained

    def _disk_bytes(self, walk: Sequence[Mixture]) -> int:
        """Return the most that lies on the disk: a round's checkpoints with its start and the champion, or the end."""
        peaks = [
            self._bytes_of(len(mixture.evaluation_offsets) + (2 if index else 0), 0 if index else 1)
            for index, mixture in enumerate(walk)
        ]
        exported = 2 * _WEIGHT_BYTES * self.size.num_parameters
        return max(*peaks, peaks[-1] + exported)


def _extreme(choose: Callable[[Iterable[float]], float], works: Iterable[Work]) -> Work:
    listed = list(works)
    return Work.model_validate(
        {field: choose(getattr(work, field) for work in listed) for field in Work.model_fields}
    )


def record_plan(config: SearchConfig, directory: str, inputs: Inputs) -> Path:
    """Write the plan into the search's directory, so that it can be held to it; return the file."""
    path = Path(directory, FILE)
    write_file(path, make_plan(config, inputs).model_dump_json(indent=1) + "\n")
    return path
