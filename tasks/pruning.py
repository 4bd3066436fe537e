"""Decide what the curves of a round mean, and record the decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tasks.algorithm.curves import Curve, MetricPoint, choose_champion, mean_scores
from tasks.algorithm.mixture import stop_reason_of
from tasks.algorithm.strategy import RoundReport
from tasks.config.schema import SearchConfig
from tasks.contracts import EvaluationCost, Mixture, RolloutResult, RoundCurves, SearchRef
from tasks.record.events import CheckpointSize, RoundDecided, RowsRelabelled, of_kind, total_cost
from tasks.record.journal import History, append_event
from tasks.record.paths import round_directory
from tasks.record.rollout import read_restarts
from tasks.record.view import view_of
from tasks.report import messages
from tasks.stage import stage


@stage("decide pruning", run_name="decide round {rollout.round}")
def decide_pruning(
    config: SearchConfig, history: History, mixture: Mixture, rollout: RolloutResult, curves: RoundCurves
) -> RoundDecided:
    """Return the round with its decision, a pure function of the arguments; `record_decision` puts it on record."""
    before = history.state
    previous = tuple(past.report for past in history.rounds)
    steps_per_epoch = mixture.num_steps / mixture.epochs
    own = with_known_rows(curves.curves, previous)
    report = RoundReport(before.round, before.active, own, steps_per_epoch, previous)
    decision = config.search.strategy().observe(report)
    examples = sum(interval.num_examples for interval in rollout.intervals)
    return RoundDecided(
        round=before.round,
        method=config.search.method,
        rule=config.search.rule,
        sub_datasets=history.started.sub_datasets,
        active=before.active,
        weights=dict(before.weights) if before.weights is not None else None,
        steps_per_epoch=steps_per_epoch,
        curves=own,
        examples=examples,
        checkpoints=tuple(CheckpointSize(key=c.key, num_bytes=c.num_bytes) for c in rollout.checkpoints),
        intervals=rollout.intervals,
        evaluation=total_cost([curves.cost, *_relabelling_costs(history)]),
        restarts=(),
        decision=decision,
        scores_at_target={c.sub_dataset: c.at(decision.roll_back_to).score for c in curves.curves},
        champion=choose_champion(before.champion, mean_scores(curves.curves)),
        stop_reason=stop_reason_of(config.mixture_settings, mixture, before, decision, examples),
        mixture=mixture,
    )


def with_known_rows(curves: tuple[Curve, ...], previous: Sequence[RoundReport]) -> tuple[Curve, ...]:
    """Return the curves with the right and wrong rows of the round's start, which an earlier round has measured."""
    known = {
        (curve.sub_dataset, point.checkpoint): point.correct
        for report in previous
        for curve in report.curves
        for point in curve.points
    }

    def filled(name: str, point: MetricPoint) -> MetricPoint:
        return replace(point, correct=point.correct or known.get((name, point.checkpoint), ""))

    return tuple(
        Curve(curve.sub_dataset, tuple(filled(curve.sub_dataset, point) for point in curve.points)) for curve in curves
    )


def _relabelling_costs(history: History) -> list[EvaluationCost]:
    events = of_kind(history.events, RowsRelabelled)
    return [event.cost for event in events if event.round == history.state.round]


def record_decision(search: SearchRef, history: History, decided: RoundDecided) -> History:
    """Append the round, with its worker's restarts, to the journal; show it; return the history after it."""
    restarts = read_restarts(round_directory(search.directory, decided.round))
    event = append_event(search.directory, decided.model_copy(update={"restarts": restarts}))
    after = history.after(event)
    messages.show_decision(view_of(after, search.directory))
    return after
