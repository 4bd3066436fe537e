"""Decide what a round's curves mean, and put the decision on record."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tasks.algorithm.curves import choose_champion, mean_scores
from tasks.algorithm.state import SearchState
from tasks.algorithm.strategy import Decision, read_report
from tasks.config.schema import SearchConfig
from tasks.contracts import Inputs, Mixture, RolloutResult, RoundCurves, SearchRef
from tasks.record.journal import append_event, read_events, read_state
from tasks.record.progress import read_restarts
from tasks.report import terminal
from tasks.stage import stage


@stage("decide pruning", run_name="decide round {rollout.round}")
def decide_pruning(
    config: SearchConfig,
    search: SearchRef,
    inputs: Inputs,
    mixture: Mixture,
    rollout: RolloutResult,
    curves: RoundCurves,
) -> SearchState:
    """Return the state after this round's decision, which is on record in the journal from here on."""
    before = read_state(search.directory)
    event = _measured(config, before, inputs, mixture, rollout, curves)
    event["restarts"] = read_restarts(search.round_directory(before.round))
    earlier = [past for past in read_events(search.directory) if past["event"] == "round_decided"]
    report = read_report([*earlier, event])
    decision = config.search.strategy().observe(report)
    event |= _decided(before, curves, decision)
    event["stop_reason"] = stop_reason_of(config, mixture, before, event)
    append_event(search.directory, event)
    after = read_state(search.directory)
    terminal.show_decision(decision, report, after)
    return after


def _measured(
    config: SearchConfig,
    before: SearchState,
    inputs: Inputs,
    mixture: Mixture,
    rollout: RolloutResult,
    curves: RoundCurves,
) -> dict[str, Any]:
    """Return what the round measured, as the journal has it."""
    return {
        "event": "round_decided",
        "round": before.round,
        "method": config.search.method,
        "rule": config.search.rule,
        "sub_datasets": list(inputs.names),
        "active": list(before.active),
        "weights": before.weights,
        "steps_per_epoch": mixture.num_steps / mixture.epochs,
        "curves": [asdict(curve) for curve in curves.curves],
        "examples": sum(interval.num_examples for interval in rollout.intervals),
        "checkpoints": [{"key": asdict(c.key), "num_bytes": c.num_bytes} for c in rollout.checkpoints],
        "intervals": [interval.model_dump(mode="json") for interval in rollout.intervals],
        "evaluation": curves.cost.model_dump(),
    }


def _decided(before: SearchState, curves: RoundCurves, decision: Decision) -> dict[str, Any]:
    target = decision.roll_back_to
    return {
        "decision": asdict(decision),
        "scores_at_target": {curve.sub_dataset: curve.at(target).score for curve in curves.curves},
        "champion": asdict(choose_champion(before.champion, mean_scores(curves.curves))),
    }


def stop_reason_of(config: SearchConfig, mixture: Mixture, before: SearchState, event: dict[str, Any]) -> str:
    """Return why the search ends with this decision; empty where it goes on."""
    decision, search = event["decision"], config.search
    active = (set(before.active) - set(decision["exclude"])) | set(decision["include"])
    spent = (before.spent_examples + event["examples"]) / mixture.full_epoch_rows
    interval = mixture.epoch_rows / mixture.full_epoch_rows / search.evals_per_epoch
    if decision["stop"]:
        return str(decision["stop"])
    if not active:
        return "no sub-dataset is active any more"
    if search.max_rounds is not None and before.round + 1 >= search.max_rounds:
        return f"search.max_rounds = {search.max_rounds} is reached"
    if spent + interval / 2 > search.max_epochs:
        return f"{spent:.2f} of search.max_epochs = {search.max_epochs:g} epochs are spent"
    return ""
