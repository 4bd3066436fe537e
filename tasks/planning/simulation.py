"""The rounds that a search would make if sub-datasets overfitted as imagined: its own strategy on made-up curves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tasks.algorithm.curves import Curve, MetricPoint
from tasks.algorithm.state import Champion, CheckpointKey, SearchState
from tasks.algorithm.strategy import Decision, RoundReport
from tasks.config.schema import SearchConfig
from tasks.contracts import Inputs, Mixture
from tasks.mixing import plan_mixture
from tasks.pruning import stop_reason_of

# Far below any score and far above any loss, so that every guard of every strategy lets it pass.
_FALLEN = 1e9
Leaving = Callable[[Sequence[str]], str | None]


@dataclass(frozen=True)
class _SimulatedRound:
    """The part of a decided round that the state depends on."""

    sub_datasets: tuple[str, ...]
    decision: Decision
    scores_at_target: Mapping[str, float]
    champion: Champion
    examples: int
    stop_reason: str


def imagined_rounds(
    config: SearchConfig, inputs: Inputs, order: Sequence[str], leaving: Leaving
) -> Iterator[Mixture]:
    """Yield the mixtures of a search in which `leaving` names who overfits, given the active ones in `order`.

    All others learn to the end. Who overfits has its peak in the middle of the roll-out.
    """
    strategy = config.search.strategy()
    opening = strategy.open(inputs.names)
    state = SearchState.opened(inputs.names, opening)
    previous: tuple[RoundReport, ...] = ()
    while not state.is_finished:
        mixture = plan_mixture(config, inputs, state, None)
        yield mixture
        falling = _falling(state.active, order, leaving, config.search.exclude_per_round)
        curves = _curves(inputs.names, falling, mixture, state.checkpoint or CheckpointKey(0, 0))
        steps_per_epoch = mixture.num_steps / mixture.epochs
        report = RoundReport(state.round, state.active, curves, steps_per_epoch, previous)
        previous = (*previous, RoundReport(state.round, state.active, curves, steps_per_epoch))
        decision = strategy.observe(report)
        decided = _SimulatedRound(
            sub_datasets=inputs.names,
            decision=decision,
            scores_at_target=dict.fromkeys(inputs.names, 0.0),
            champion=Champion(decision.roll_back_to, 0.0),
            examples=mixture.num_rows,
            stop_reason=stop_reason_of(config, mixture, state, decision, mixture.num_rows),
        )
        state = state.after(decided)


def _falling(active: Sequence[str], order: Sequence[str], leaving: Leaving, count: int) -> list[str]:
    falling: list[str] = []
    for _ in range(count):
        left = [name for name in order if name in active and name not in falling]
        if left and (name := leaving(left)) is not None:
            falling.append(name)
    return falling


def _curves(
    names: Sequence[str], falling: Sequence[str], mixture: Mixture, start: CheckpointKey
) -> tuple[Curve, ...]:
    keys = [start, *(CheckpointKey(mixture.round, start.step + o) for o in mixture.evaluation_offsets)]
    peak = len(keys) // 2 if len(keys) > 3 else 0
    return tuple(
        Curve(
            name,
            tuple(
                MetricPoint(key, -_FALLEN, _FALLEN, 1)
                if name in falling and index > peak
                else MetricPoint(key, float(key.step), 1.0, 1)
                for index, key in enumerate(keys)
            ),
        )
        for name in names
    )
