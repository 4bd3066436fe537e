"""Decide what a round's curves mean, and put the decision on record."""

from __future__ import annotations

from tasks.algorithm.curves import choose_champion, mean_scores
from tasks.algorithm.state import SearchState
from tasks.algorithm.strategy import Decision, RoundReport
from tasks.config.schema import SearchConfig
from tasks.contracts import Mixture, RolloutResult, RoundCurves, SearchRun
from tasks.record.events import CheckpointSize, RoundDecided, rounds_of
from tasks.record.journal import append_event, read_events, read_state
from tasks.record.progress import read_restarts
from tasks.report import messages
from tasks.stage import stage


@stage("decide pruning", run_name="decide round {rollout.round}")
def decide_pruning(
    search: SearchRun, mixture: Mixture, rollout: RolloutResult, curves: RoundCurves
) -> SearchState:
    """Return the state after this round's decision, which is on record in the journal from here on."""
    config, inputs, directory = search.config, search.inputs, search.ref.directory
    before = read_state(directory)
    previous = tuple(past.report for past in rounds_of(read_events(directory)))
    steps_per_epoch = mixture.num_steps / mixture.epochs
    report = RoundReport(before.round, before.active, curves.curves, steps_per_epoch, previous)
    decision = config.search.strategy().observe(report)
    examples = sum(interval.num_examples for interval in rollout.intervals)
    decided = RoundDecided(
        round=before.round,
        method=config.search.method,
        rule=config.search.rule,
        sub_datasets=inputs.names,
        active=before.active,
        weights=dict(before.weights) if before.weights is not None else None,
        steps_per_epoch=steps_per_epoch,
        curves=curves.curves,
        examples=examples,
        checkpoints=tuple(CheckpointSize(key=c.key, num_bytes=c.num_bytes) for c in rollout.checkpoints),
        intervals=rollout.intervals,
        evaluation=curves.cost,
        restarts=read_restarts(search.ref.round_directory(before.round)),
        decision=decision,
        scores_at_target={c.sub_dataset: c.at(decision.roll_back_to).score for c in curves.curves},
        champion=choose_champion(before.champion, mean_scores(curves.curves)),
        stop_reason=stop_reason_of(config, mixture, before, decision, examples),
        mixture=mixture,
    )
    append_event(directory, decided)
    after = read_state(directory)
    messages.show_decision(decision, before.round, after, by_loss=config.evaluation.selection == "loss")
    return after


def stop_reason_of(
    config: SearchConfig, mixture: Mixture, before: SearchState, decision: Decision, examples: int
) -> str:
    """Return why the search ends with this decision; empty where it goes on."""
    search = config.search
    active = (set(before.active) - set(decision.exclude)) | set(decision.include)
    spent = (before.spent_examples + examples) / mixture.full_epoch_rows
    interval = mixture.epoch_rows / mixture.full_epoch_rows / search.evals_per_epoch
    if decision.stop:
        return decision.stop
    if not active:
        return "no sub-dataset is active any more"
    if search.max_rounds is not None and before.round + 1 >= search.max_rounds:
        return f"search.max_rounds = {search.max_rounds} is reached"
    if spent + interval / 2 > search.max_epochs:
        return f"{spent:.2f} of search.max_epochs = {search.max_epochs:g} epochs are spent"
    return ""
