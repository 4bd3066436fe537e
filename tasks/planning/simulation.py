"""Simulate a search on synthetic curves to bound its cost."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from tasks.algorithm.curves import Curve, MetricPoint
from tasks.algorithm.mixture import MixturePlan, plan_mixture, stop_reason_of
from tasks.algorithm.state import Champion, CheckpointKey, SearchState
from tasks.algorithm.strategy import Decision, RoundReport
from tasks.config.schema import SearchConfig
from tasks.contracts import Inputs

# An overfitting curve loses this much score and gains this much loss: more than any threshold of a strategy.
_FAR = 1e9
_NUM_ROWS = 64  # all right, or all wrong after the peak of an overfitting curve: clear for any test
# Returns the next sub-dataset to overfit, of those left in a given order; None: no more.
Choose = Callable[[Sequence[str]], str | None]


@dataclass(frozen=True)
class _Round:
    """A simulated round, as far as the state of the search depends on it (`DecidedRound`)."""

    sub_datasets: tuple[str, ...]
    decision: Decision
    scores_at_target: Mapping[str, float]
    champion: Champion
    examples: int
    stop_reason: str


def simulate(config: SearchConfig, inputs: Inputs, order: Sequence[str], choose: Choose) -> list[MixturePlan]:
    """Return the mixture of each round of a simulated search.

    The strategy, the mixtures and the stop conditions are those of the search itself; only the curves are synthetic.
    In each round `choose` selects the sub-datasets that overfit, as many as a round may exclude, from the active ones
    in `order`. The score of all others rises to the end of the roll-out.
    """
    strategy, settings = config.search.strategy(), config.mixture_settings
    splits = {part.name: part.train for part in inputs.sub_datasets}
    state = SearchState.opened(inputs.names, strategy.open(inputs.names))
    mixtures: list[MixturePlan] = []
    reports: tuple[RoundReport, ...] = ()
    while not state.is_finished:
        mixture = plan_mixture(settings, splits, state)
        overfitting = _chosen(state.active, order, choose, config.search.exclude_per_round)
        curves = tuple(_curve(name, _checkpoints(mixture, state), name in overfitting) for name in inputs.names)
        report = RoundReport(state.round, state.active, curves, mixture.steps_per_epoch)
        decision = strategy.observe(replace(report, previous=reports))
        stop_reason = stop_reason_of(settings, mixture, state, decision, mixture.num_rows)
        scores, champion = dict.fromkeys(inputs.names, 0.0), Champion(decision.roll_back_to, 0.0)
        state = state.after(_Round(inputs.names, decision, scores, champion, mixture.num_rows, stop_reason))
        mixtures.append(mixture)
        reports = (*reports, report)
    return mixtures


def _chosen(active: Collection[str], order: Sequence[str], choose: Choose, at_most: int) -> list[str]:
    chosen: list[str] = []
    while len(chosen) < at_most:
        left = [name for name in order if name in active and name not in chosen]
        name = choose(left) if left else None
        if name is None:
            break
        chosen.append(name)
    return chosen


def _checkpoints(mixture: MixturePlan, state: SearchState) -> list[CheckpointKey]:
    """Return the scored checkpoints of a roll-out, with its start."""
    start = state.checkpoint or CheckpointKey(0, 0)
    return [start, *(CheckpointKey(mixture.round, start.step + o) for o in mixture.evaluation_offsets)]


def _curve(name: str, checkpoints: Sequence[CheckpointKey], overfits: bool) -> Curve:
    """Return a curve that rises by 1 per step; an overfitting one peaks in the middle of the roll-out."""
    peak = len(checkpoints) // 2 if len(checkpoints) > 3 else 0
    points = [MetricPoint(key, float(key.step), 1.0, _NUM_ROWS, "1" * _NUM_ROWS) for key in checkpoints]
    if overfits:
        points[peak + 1 :] = [
            replace(point, score=-_FAR, loss=_FAR, correct="0" * _NUM_ROWS) for point in points[peak + 1 :]
        ]
    return Curve(name, tuple(points))
