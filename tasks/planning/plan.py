"""Plan a search: bound its cost before it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from operator import add
from pathlib import Path

from tasks.algorithm.baselines import Dynamix
from tasks.algorithm.costs import RowCost
from tasks.algorithm.mixture import MixturePlan
from tasks.config.schema import SearchConfig
from tasks.contracts import Inputs, SubDatasetRef
from tasks.data.model_size import measure_model
from tasks.planning.hidden_cache import hidden_states_bytes, hidden_states_flops, keeps_hidden_states
from tasks.planning.row_costs import NOTHING, scoring_cost, training_cost
from tasks.planning.simulation import simulate
from tasks.record.paths import PLAN
from tasks.record.plan import Bound, Plan, SearchCost
from tasks.runtime.files import write_file

# AdamW keeps two moments per weight; all are float32.
_WEIGHT_BYTES, _MOMENT_BYTES = 4, 8


def record_plan(config: SearchConfig, directory: str, inputs: Inputs) -> Path:
    """Write the plan of a search to its directory, and return the file."""
    path = Path(directory, PLAN)
    write_file(path, make_plan(config, inputs).model_dump_json(indent=1) + "\n")
    return path


def make_plan(config: SearchConfig, inputs: Inputs) -> Plan:
    """Return the cost of a search, from simulations with the strategy and the mixtures of the search itself.

    Which sub-dataset is excluded when is not known. The expected search excludes the sub-dataset of middle size in each
    round: C·(N+1)/2 epochs if all have the same size. The bounds are taken over searches that exclude nothing, and over
    searches that exclude in each round the sub-dataset with the fewest or the most rows, tokens or tokens per row; both
    until none is left, and until one is left, which then spends the rest of the budget with the most evaluations.
    """
    orders = _orders(inputs)
    expected = simulate(config, inputs, orders[0], lambda left: left[(len(left) - 1) // 2])
    searches = [expected, simulate(config, inputs, orders[0], lambda left: None)]
    for order in orders:
        searches.append(simulate(config, inputs, order, lambda left: left[0]))
        searches.append(simulate(config, inputs, order, lambda left: left[0] if left[1:] else None))
    model = _CostModel(config, inputs)
    return Plan(
        num_sub_datasets=len(inputs.names),
        num_parameters=model.size.num_parameters,
        num_trained=model.size.num_trained,
        least=_extreme(min, [model.cost_of(mixtures, "least") for mixtures in searches]),
        expected=model.cost_of(expected, "expected"),
        most=_extreme(max, [model.cost_of(mixtures, "most") for mixtures in searches]),
        facts={part.name: part.facts for part in inputs.sub_datasets},
        data_warnings=tuple(warning for part in inputs.sub_datasets for warning in part.warnings),
        hidden_states_bytes=hidden_states_bytes(config, inputs),
        keeps_hidden_states=keeps_hidden_states(config, inputs),
    )


def _orders(inputs: Inputs) -> list[list[str]]:
    """Return the names of the sub-datasets by rows, tokens and tokens per row, each ascending and descending."""
    keys: list[Callable[[SubDatasetRef], float]] = [
        lambda part: part.train.num_rows,
        lambda part: part.train.num_tokens,
        lambda part: part.train.num_tokens / part.train.num_rows,
    ]
    ascending = [[part.name for part in sorted(inputs.sub_datasets, key=key)] for key in keys]
    return [*ascending, *(order[::-1] for order in ascending)]


class _CostModel:
    """Cost of rounds on given inputs; the rows of each split are counted once."""

    def __init__(self, config: SearchConfig, inputs: Inputs) -> None:
        parts = inputs.sub_datasets
        self._copies = 2 if config.training.ema is not None else 1
        self._policy, self._goes_back = config.search.policy(), config.search.goes_back
        self._averages = config.search.champion == "soup"
        self._batch_size = config.training.batch_size
        self.size = measure_model(inputs.model)
        self._from_cache = keeps_hidden_states(config, inputs)
        self._once = hidden_states_flops(config, inputs)
        self._relabels = config.search.options.model_dump().get("rehearse") == "relabelled"
        self._parts = parts
        self._num_rows = sum(part.train.num_rows for part in parts)
        self._per_row = {p.name: training_cost(p.train) * (1 / p.train.num_rows) for p in parts}
        self._scoring = {p.name: scoring_cost(p.validation, p.metric, p.max_new_tokens) for p in parts}
        answered = [p for p in parts if config.evaluation.suspects and p.metric != "loss"]
        self._answers = [scoring_cost(p.train, p.metric, p.max_new_tokens) for p in answered]

    def cost_of(self, mixtures: Sequence[MixturePlan], bound: Bound) -> SearchCost:
        """Return the cost of a search with these mixtures; `bound` selects how much text scoring generates."""
        costs: dict[str, RowCost] = {name: getattr(cost, bound) for name, cost in self._scoring.items()}
        drawn = [
            self._per_row[name] * (rows_per_epoch * mixture.num_rows / mixture.epoch_rows)
            for mixture in mixtures
            for name, rows_per_epoch in mixture.rows_per_epoch.items()
        ]
        training: RowCost = reduce(add, drawn, NOTHING)
        num_trained = sum(len(mixture.evaluation_offsets) for mixture in mixtures)
        num_checkpoints = 1 + num_trained  # the base model is scored too
        num_scored = num_checkpoints + (num_checkpoints - 1 if self._averages else 0)  # all but the best are tried
        evaluation = reduce(add, costs.values(), NOTHING) * num_scored
        num_answered = {"least": 0, "expected": 1, "most": len(mixtures)}[bound]  # times that a peak is new
        answers: RowCost = reduce(add, (getattr(one, bound) for one in self._answers), NOTHING) * num_answered
        answers += self._relabelling(bound)
        tested = [costs[p.name] * (p.num_test_rows / p.validation.num_rows) for p in self._parts]
        num_examples = sum(mixture.num_rows for mixture in mixtures)
        return SearchCost(
            num_rounds=len(mixtures),
            num_epochs=num_examples / self._num_rows,
            num_steps=sum(mixture.num_steps for mixture in mixtures),
            num_examples=num_examples,
            num_checkpoints=num_checkpoints,
            training_tokens=training.num_tokens,
            training_flops=self._training_flops(training) + self._look_ahead_flops(mixtures) + self._once,
            evaluation_tokens=evaluation.num_tokens + answers.num_tokens,
            evaluation_flops=self._scoring_flops(costs, num_scored) + answers.forward_flops(self.size.shape),
            test_flops=reduce(add, tested, NOTHING).forward_flops(self.size.shape),
            bytes_written=self._bytes_of(num_trained, num_untrained=1),
            disk_bytes=self._disk_bytes(mixtures),
        )

    def _relabelling(self, bound: Bound) -> RowCost:
        """Return the work of answering all train rows once, as if each sub-dataset left; none at least."""
        if not self._relabels or bound == "least":
            return NOTHING
        costs = [getattr(scoring_cost(p.train, p.metric, p.max_new_tokens), bound) for p in self._parts]
        return reduce(add, costs, NOTHING)

    def _look_ahead_flops(self, mixtures: Sequence[MixturePlan]) -> float:
        """Return the FLOPs of DynamixSFT's look-aheads: for each update, a step and a loss on a batch of each part."""
        if not isinstance(self._policy, Dynamix):
            return 0.0
        num_updates = sum(mixture.num_steps // self._policy.every_steps for mixture in mixtures)
        rows = reduce(add, self._per_row.values(), NOTHING) * (num_updates * self._batch_size)
        return self._training_flops(rows) + self._forward_flops(rows)

    def _training_flops(self, rows: RowCost) -> float:
        return rows.training_flops(self.size.shape, from_cache=self._from_cache)

    def _forward_flops(self, rows: RowCost) -> float:
        return rows.forward_flops(self.size.shape.above if self._from_cache else self.size.shape)

    def _scoring_flops(self, costs: Mapping[str, RowCost], num_scored: int) -> float:
        """Return the FLOPs of scoring checkpoints; generated text takes all layers."""
        rows: RowCost = reduce(add, (cost.least for cost in self._scoring.values()), NOTHING)
        generated = reduce(add, costs.values(), NOTHING) + rows * -1
        return (self._forward_flops(rows) + generated.forward_flops(self.size.shape)) * num_scored

    def _bytes_of(self, num_trained: int, num_untrained: int = 0) -> int:
        """Return the bytes of checkpoints: weights, their moving average, and the moments of trained ones."""
        weights = self._copies * _WEIGHT_BYTES
        return (num_trained * (weights + _MOMENT_BYTES) + num_untrained * weights) * self.size.num_trained

    def _disk_bytes(self, mixtures: Sequence[MixturePlan]) -> int:
        """Return the peak disk usage: a round's checkpoints, its start and the champion; or the end of the search.

        The champion has only its scored weights; so have the others, except the two newest, if no decision goes back.
        Those that the champion may average stay to the end.
        """
        scored = _WEIGHT_BYTES * self.size.num_trained
        peaks, num_earlier = [], 0
        for index, mixture in enumerate(mixtures):
            num_own = len(mixture.evaluation_offsets)
            num_whole = num_own if self._goes_back else min(2, num_own)
            before = self._bytes_of(1) + scored if index else self._bytes_of(0, num_untrained=1)
            peaks.append(self._bytes_of(num_whole) + (num_own - num_whole + num_earlier) * scored + before)
            num_earlier += num_own if self._averages else 0
        exported = 2 * _WEIGHT_BYTES * self.size.num_parameters
        return max(*peaks, peaks[-1] + exported)


def _extreme(choose: Callable[[Iterable[float]], float], costs: Sequence[SearchCost]) -> SearchCost:
    fields = SearchCost.model_fields
    return SearchCost.model_validate({name: choose(getattr(cost, name) for cost in costs) for name in fields})
