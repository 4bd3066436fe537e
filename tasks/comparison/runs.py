"""A comparison's searches: which they are, its record in MLflow, and what its finished searches say."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.algorithm.costs import ledger_lines
from tasks.comparison.parallel import Arm, Outcome, lanes, run_side_by_side
from tasks.comparison.presets import CONTROL, METHODS, check_methods, configure
from tasks.config.identity import differences, identity_of
from tasks.config.loading import dump_config
from tasks.config.schema import SearchConfig
from tasks.contracts import ChampionResult, SearchRef, SubDatasetScore, Value
from tasks.errors import ConfigError, DifferentDataError, IncompleteComparisonError
from tasks.opening import reference_to
from tasks.record.journal import read_events
from tasks.record.ownership import directory_of
from tasks.registry import runs as tracking
from tasks.runtime.files import make_folder, write_file

logger = logging.getLogger(__name__)


class Cost(Value):
    """What one search cost, by its ledger; what was restarted counts once, and the champion's test not at all.

    Attributes:
        train_tokens: accepted and discarded ones.
        discarded_tokens: of these, what was rolled back.
        evaluation_tokens: scored on validation.
        flops, seconds: of these three kinds of work, without what a restart repeated, which is no method's doing;
            seconds are those of the workers, so work side by side adds up.
    """

    train_tokens: int = 0
    discarded_tokens: int = 0
    evaluation_tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0


class Finding(Value):
    """One finished search as a comparison sees it.

    Attributes:
        directory: the search's.
        test: the champion's test scores of the sub-datasets that have an accuracy.
        test_hashes: of each sub-dataset's test rows.
        cost: of the whole search.
        crowned_at: when it ended, ISO 8601.
    """

    arm: Arm
    directory: str
    test: tuple[SubDatasetScore, ...]
    test_hashes: dict[str, str]
    cost: Cost
    crowned_at: str

    @property
    def accuracy(self) -> float:
        """Return the mean test accuracy over sub-datasets, in [0, 1]."""
        return sum(score.accuracy or 0.0 for score in self.test) / len(self.test)


def plan_comparison(
    config: SearchConfig, methods: Sequence[str], seeds: Sequence[int], control: str
) -> tuple[tuple[Arm, ...], str]:
    """Return the searches, seed by seed, and the control: `control`, or else SFT if it is compared, or the first.

    Raises:
        ConfigError: a method is unknown, or does not go with the configuration; or nothing could be compared.
    """
    check_methods([*methods, *([control] if control else [])])
    refuse_untested(config)
    chosen = tuple(dict.fromkeys(methods)) or (CONTROL, "msft")
    if control and control not in chosen:
        raise ConfigError("--control", [f"{control} is not among the methods {', '.join(chosen)}"])
    arms = tuple(
        Arm(method=m, seed=seed, config=configure(config, m, seed, {}, f"{config.name}-{m}"))
        for seed in dict.fromkeys(seeds or (config.seed,))
        for m in chosen
    )
    _refuse_twins(arms)
    return arms, control or (CONTROL if CONTROL in chosen else chosen[0])


def _refuse_twins(arms: Sequence[Arm]) -> None:
    """Raise where two methods are one search, as `sft` and `sft_ema` are when the file sets `training.ema`."""
    first: dict[str, str] = {}
    for arm in arms:
        settings = arm.config.model_copy(update={"name": ""}).model_dump_json()
        twin = first.setdefault(settings, arm.method)
        if twin != arm.method:
            raise ConfigError(
                "--methods",
                [f"{twin} and {arm.method} are one and the same search with these settings; leave one out"],
            )


def refuse_untested(config: SearchConfig) -> None:
    """Raise where no sub-dataset has test rows that give an accuracy."""
    if all(s.splits.test is None or s.metric == "loss" for s in config.mixture.sub_datasets):
        raise ConfigError(
            config.name, ["no sub-dataset has a test split and an accuracy, so nothing can be compared"]
        )


@task(name="open comparison", cache_policy=NO_CACHE)
def open_comparison(
    config: SearchConfig, arms: Sequence[Arm], control: str, kind: str = "comparison"
) -> SearchRef:
    """Return the comparison, with its directory made and its MLflow run open.

    Raises:
        TrackingError: MLflow does not answer.
    """
    comparison = comparison_of(config, arms, control, kind)
    directory = Path(comparison.directory)
    make_folder(directory)
    # MLflow's files of a new experiment lie beside what it is given: with those of single searches.
    place = comparison.model_copy(update={"directory": str(directory.parent)})
    params = {
        "methods": ", ".join(dict.fromkeys(arm.method for arm in arms)),
        "seeds": ", ".join(dict.fromkeys(str(arm.seed) for arm in arms)),
        "control": control,
        "max_epochs": config.search.max_epochs,
    }
    opened = tracking.open_comparison_run(place, config.tracking.experiment, params, kind)
    write_file(directory / "config.yaml", dump_config(config))
    logger.info(
        f"{kind} {directory.name}: {len(arms)} searches of {config.search.max_epochs:g} full-mixture epochs "
        f"each, in {directory}"
    )
    return opened.model_copy(update={"directory": str(directory)})


def comparison_of(
    config: SearchConfig, arms: Sequence[Arm], control: str, kind: str = "comparison"
) -> SearchRef:
    """Return a comparison, or sweep, before MLflow has been asked for its run.

    It is named by its searches: other methods or seeds are another comparison, which takes what has ended as it is.
    """
    content = [control, [identity_of(arm.config) for arm in arms]]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
    directory = Path(config.output_root, f"{kind}s", f"{config.name}-{digest}")
    return reference_to(config, str(directory)).model_copy(update={"search_id": digest})


def run_searches(
    config: SearchConfig,
    comparison: SearchRef,
    arms: Sequence[Arm],
    search: Callable[[Arm], Any],
    parallel: int | None,
) -> tuple[Outcome, ...]:
    """Bring every arm's search to its end by `search`, but take what has ended as it is."""

    def run(arm: Arm) -> None:
        directory, experiment = str(directory_of(arm.config)), arm.config.tracking.experiment
        has_ended = any(event["event"] == "champion_crowned" for event in read_events(directory))
        reference = reference_to(arm.config, directory)
        if has_ended and tracking.adopt_finished_run(reference, experiment, comparison.run_id):
            logger.info(f"{arm.label}: has ended before, taken as it is")
        else:
            search(arm)

    return run_side_by_side(arms, run, lanes(config, parallel), Path(comparison.directory, "logs"))


def find_all(outcomes: Sequence[Outcome], *, same_data: bool) -> tuple[Finding, ...]:
    """Return what the searches that ended found, from their journals.

    Args:
        outcomes: of all arms.
        same_data: whether the searches of one seed must have begun with the same rows and base model.
    Raises:
        DifferentDataError: they have not.
    """
    findings = []
    first: dict[int, tuple[Arm, Mapping[str, Any]]] = {}
    for outcome in outcomes:
        if outcome.error:
            continue
        events = read_events(str(directory_of(outcome.arm.config)))
        content = events[0]["content"]
        before, held = first.setdefault(outcome.arm.seed, (outcome.arm, content))
        if same_data and held != content:
            raise DifferentDataError(
                outcome.arm.seed, before.label, outcome.arm.label, differences(held, content)
            )
        findings.append(_finding(outcome.arm, events, content))
    return tuple(findings)


def _finding(arm: Arm, events: Sequence[Mapping[str, Any]], content: Mapping[str, str]) -> Finding:
    crowned = next(event for event in events if event["event"] == "champion_crowned")
    champion = ChampionResult.model_validate(crowned["champion"])
    assert champion.test is not None
    return Finding(
        arm=arm,
        directory=str(directory_of(arm.config)),
        test=tuple(score for score in champion.test.scores if score.accuracy is not None),
        test_hashes={
            key.removesuffix("/test"): value for key, value in content.items() if key.endswith("/test")
        },
        cost=_cost(events),
        crowned_at=crowned["at"],
    )


def _cost(events: Sequence[Mapping[str, Any]]) -> Cost:
    rounds = [event for event in events if event["event"] == "round_decided"]
    lines = [line for event in rounds for line in ledger_lines(event) if line.kind != "restart"]
    tokens = {
        kind: sum(line.num_tokens for line in lines if line.kind == kind)
        for kind in {li.kind for li in lines}
    }
    return Cost(
        train_tokens=sum(count for kind, count in tokens.items() if kind != "evaluation"),
        discarded_tokens=tokens.get("discarded", 0),
        evaluation_tokens=tokens.get("evaluation", 0),
        flops=sum(line.flops for line in lines),
        seconds=sum(line.seconds for line in lines),
    )


def refuse_failures(outcomes: Sequence[Outcome]) -> None:
    """Raise where a search failed, when all else is done.

    Raises:
        IncompleteComparisonError: names them and why.
    """
    failures = [f"{o.arm.label}: {o.error.splitlines()[0]}" for o in outcomes if o.error]
    if failures:
        raise IncompleteComparisonError(failures, len(outcomes))


def title_of(method: str) -> str:
    """Return a method's name as tables and plots have it."""
    return METHODS[method].title
