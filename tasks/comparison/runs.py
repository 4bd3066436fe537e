"""A comparison's directory and MLflow run, its searches, and the findings read from their journals."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from tasks.algorithm.costs import LedgerLine, total_by_kind
from tasks.comparison.grid import Arm, Grid
from tasks.comparison.parallel import Outcome, Part, Place, failed, gpu_slots, run_in_parallel, run_in_turn
from tasks.comparison.placed import run_on_deployment
from tasks.config.identity import differences, dump_config, identity_of
from tasks.config.schema import SearchConfig
from tasks.contracts import SearchRef, SubDatasetScore, Value
from tasks.errors import DifferentDataError, IncompleteComparisonError, MsftError
from tasks.opening import reference_to
from tasks.record.events import Event, RoundDecided, champion_of, rounds_of, start_of
from tasks.record.journal import History, read_events
from tasks.record.ownership import directory_of
from tasks.record.paths import CONFIG
from tasks.registry import runs as tracking
from tasks.runtime.files import write_file

logger = logging.getLogger(__name__)


class Cost(Value):
    """The cost of one search by its ledger: training (discarded work included) and evaluation on validation.

    Work that a restart repeated is not counted, as it is no property of the method. Seconds are those of the workers,
    so parallel work adds up.
    """

    train_tokens: int = 0
    discarded_tokens: int = 0
    evaluation_tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0


class Finding(Value):
    """One finished search, as the report reads it."""

    arm: Arm
    directory: str
    test: tuple[SubDatasetScore, ...]  # of the champion, on the sub-datasets that have an accuracy
    test_hashes: dict[str, str]  # of each sub-dataset's test rows
    cost: Cost
    rounds: tuple[RoundDecided, ...]
    crowned_at: str  # ISO 8601

    @property
    def accuracy(self) -> float:
        """Return the mean test accuracy over sub-datasets, in [0, 1]."""
        return sum(score.accuracy or 0.0 for score in self.test) / len(self.test)


@task(name="open comparison", cache_policy=NO_CACHE)
def open_comparison(config: SearchConfig, grid: Grid) -> SearchRef:
    """Create the comparison's directory, open its MLflow run, and return a reference to both.

    Raises:
        TrackingError: MLflow does not answer.
    """
    comparison = comparison_of(config, grid)
    directory = Path(comparison.directory)
    write_file(directory / CONFIG, dump_config(config))
    # MLflow stores the artifacts of a new experiment beside the given directory: with those of single searches.
    place = comparison.model_copy(update={"directory": str(directory.parent)})
    params = {
        "methods": ", ".join(dict.fromkeys(arm.method for arm in grid.arms)),
        "seeds": ", ".join(dict.fromkeys(str(arm.seed) for arm in grid.arms)),
        "control": grid.control,
        "max_epochs": config.search.max_epochs,
    }
    opened = tracking.open_comparison_run(place, config.tracking.experiment, params, grid.kind)
    logger.info(
        f"{grid.kind} {directory.name}: {len(grid.arms)} searches of {config.search.max_epochs:g} full-mixture "
        f"epochs each, in {directory}"
    )
    return opened.model_copy(update={"directory": str(directory)})


def comparison_of(config: SearchConfig, grid: Grid) -> SearchRef:
    """Return a reference, without an MLflow run; the id is a hash of the searches, which others may reuse."""
    content = [grid.control, [identity_of(arm.config) for arm in grid.arms]]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
    directory = Path(config.output_root, f"{grid.kind}s", f"{config.name}-{digest}")
    return reference_to(config, str(directory)).model_copy(update={"search_id": digest})


def run_searches(
    comparison: SearchRef, grid: Grid, place: Place, search: Callable[[Part], Any], wait_s: float = 0.0
) -> tuple[Outcome, ...]:
    """Run the searches that have not ended before, and return the outcomes in the order of the arms.

    `search` runs one in this process, where there is one slot; otherwise each runs in its own, since their imports take
    about 7 s; or on the machines of a deployment. `wait_s` is how long one waits for another process that still saves.
    """
    outcomes = {arm.label: _adopt(arm, comparison.run_id) for arm in grid.arms}
    parts = [
        Part(arm=arm, parent_run_id=comparison.run_id, flow_run_id=flow_run.id or "", wait_s=wait_s)
        for arm in grid.arms
        if outcomes[arm.label] is None
    ]
    outcomes |= {outcome.arm.label: outcome for outcome in _run(parts, place, Path(comparison.directory), search)}
    return tuple(outcome for outcome in outcomes.values() if outcome is not None)


def _run(parts: Sequence[Part], place: Place, directory: Path, search: Callable[[Part], Any]) -> list[Outcome]:
    if not parts:
        return []
    if place.deployment:
        return run_on_deployment(parts, place.deployment, place.at_once, directory / "arms")
    slots = gpu_slots(parts[0].arm.config, place.parallel)
    return run_in_turn(parts, search) if len(slots) == 1 else run_in_parallel(parts, slots, directory / "logs")


def _adopt(arm: Arm, parent_run_id: str) -> Outcome | None:
    """Take a search that has ended before as it is; return None if it must still run."""
    search = reference_to(arm.config, str(directory_of(arm.config)))
    try:
        has_ended = champion_of(read_events(search.directory)) is not None
        if not has_ended or not tracking.adopt_finished_run(search, arm.config.tracking.experiment, parent_run_id):
            return None
    except MsftError as error:
        return failed(arm, str(error))
    logger.info(f"{arm.label}: has ended before, taken as it is")
    return Outcome(arm=arm)


def find_all(outcomes: Sequence[Outcome], *, same_data: bool) -> tuple[Finding, ...]:
    """Read the findings of the finished searches from their journals.

    Raises:
        DifferentDataError: with `same_data`, searches of one seed had different rows or base models.
    """
    findings = []
    first: dict[int, tuple[Arm, Mapping[str, str]]] = {}
    for arm in (outcome.arm for outcome in outcomes if not outcome.error):
        events = read_events(str(directory_of(arm.config)))
        content = start_of(events).content
        before, held = first.setdefault(arm.seed, (arm, content))
        if same_data and held != content:
            what = f"seed {arm.seed}: {before.label} (was) and {arm.label} (is) cannot be compared:"
            raise DifferentDataError(what, differences(held, content))
        findings.append(_finding(arm, events, content))
    return tuple(findings)


def _finding(arm: Arm, events: Sequence[Event], content: Mapping[str, str]) -> Finding:
    crowned, rounds = champion_of(events), tuple(rounds_of(events))
    assert crowned is not None
    assert crowned.champion.test is not None
    return Finding(
        arm=arm,
        directory=str(directory_of(arm.config)),
        test=tuple(score for score in crowned.champion.test.scores if score.accuracy is not None),
        test_hashes={key.removesuffix("/test"): value for key, value in content.items() if key.endswith("/test")},
        cost=_cost(History.of(events).ledger),
        rounds=rounds,
        crowned_at=crowned.at,
    )


def _cost(ledger: Sequence[LedgerLine]) -> Cost:
    lines = [line for line in ledger if line.kind != "restart"]
    totals = total_by_kind(lines)
    accepted, discarded, evaluation = (totals[kind].num_tokens for kind in ("accepted", "discarded", "evaluation"))
    return Cost(
        train_tokens=accepted + discarded,
        discarded_tokens=discarded,
        evaluation_tokens=evaluation,
        flops=sum(line.flops for line in lines),
        seconds=sum(line.seconds for line in lines),
    )


def refuse_failures(outcomes: Sequence[Outcome]) -> None:
    """Raise an IncompleteComparisonError that names the failed searches and their causes, if there are any."""
    failures = [f"{o.arm.label}: {o.error.splitlines()[0]}" for o in outcomes if o.error]
    if failures:
        raise IncompleteComparisonError(f"{len(failures)} of {len(outcomes)} searches failed:", failures)
