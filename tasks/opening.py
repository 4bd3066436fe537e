"""Open a search, or go on with it; and bring it to its end."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.algorithm.state import CheckpointKey, SearchState
from tasks.config.identity import changes_between, differences
from tasks.config.loading import dump_config, search_id_of
from tasks.config.schema import SearchConfig
from tasks.contracts import ChampionResult, CheckpointScores, Inputs, SearchRef, SubDatasetScore
from tasks.errors import ChangedWorldError, EmptyCurveError, MsftError, TrackingError
from tasks.evaluation import score_champion
from tasks.planning.plan import record_plan
from tasks.preparation import open_test_splits
from tasks.record.journal import FILE, append_event, read_events, read_state
from tasks.registry import checkpoints as registry
from tasks.registry import points as run_log
from tasks.registry import runs as tracking
from tasks.report import prefect_artifacts as prefect_pages
from tasks.report import terminal
from tasks.report.model_card import card_of
from tasks.rollback import find_whole, keep_the_champion
from tasks.runtime.environment import describe_environment, numerical_environment, other_changes
from tasks.runtime.files import write_json
from tasks.stage import RETRY

logger = logging.getLogger(__name__)

# How long an end waits for an MLflow that is away for a moment; Prefect kills a run 30 s after it told it to end.
_PARTING_S = 8.0


@task(name="open search", task_run_name="open search", cache_policy=NO_CACHE)
def open_search(
    config: SearchConfig, directory: str, inputs: Inputs, parent_run_id: str
) -> tuple[SearchRef, SearchState]:
    """Return the search and where it stands; a new one is put on record with all it depends on.

    Args:
        config: the search's configuration.
        directory: where it keeps its files, owned by this process.
        inputs: base model and sub-datasets.
        parent_run_id: MLflow run of the comparison that it is part of; empty where it runs alone.

    Raises:
        TrackingError: MLflow does not answer.
    """
    events = read_events(directory)
    search = tracking.open_search_run(
        reference_to(config, directory),
        config.tracking.experiment,
        _params(config, inputs),
        is_new=not events,
        parent_run_id=parent_run_id,
    )
    if not events:
        _begin(config, search, inputs)
    run_log.log_files(search, [Path(directory, FILE)])
    prefect_pages.show_link(search)
    state = read_state(directory)
    terminal.show_search(search, state, is_resumed=bool(events))
    return search, state


def reference_to(config: SearchConfig, directory: str) -> SearchRef:
    """Return a search as its tasks know it, before MLflow has been asked for its run."""
    return SearchRef(
        search_id=search_id_of(config),
        name=config.name,
        directory=directory,
        tracking_uri=config.tracking.uri or f"sqlite:///{Path(config.output_root, 'mlflow.db').resolve()}",
        outage_s=60 * config.tracking.outage_minutes,
        experiment_id="",
        run_id="",
    )


def _begin(config: SearchConfig, search: SearchRef, inputs: Inputs) -> None:
    """Put a new search on record, its first event last: without that, all of this is done again."""
    environment = describe_environment()
    files = [Path(search.directory, file) for file in ("config.yaml", "environment.json")]
    write_json(files[0], dump_config(config))  # other searches of this name read it
    write_json(files[1], json.dumps(environment, indent=1) + "\n")
    files.append(record_plan(config, search.directory, inputs))
    run_log.log_datasets(search, inputs.sub_datasets)
    run_log.log_files(search, files)
    started = {
        "event": "search_started",
        "search_id": search.search_id,
        "sub_datasets": list(inputs.names),
        "opening": asdict(config.search.strategy().open(inputs.names)),
        "config": config.model_dump(mode="json"),
        "content": _content(inputs),
        "environment": environment,
        "world": numerical_environment(config),
    }
    append_event(search.directory, started)


@contextmanager
def true_status(search: SearchRef, experiment: str) -> Iterator[None]:
    """Leave a search that ends early as FAILED in MLflow, or as KILLED where it was told to end.

    The block opens its run in this MLflow experiment: told to end in the middle of that, the run is found by the
    search's id.
    """
    try:
        yield
    except BaseException as error:  # Prefect's TerminationSignal is a BaseException
        # MLflow itself may be what failed, and must neither hide the cause nor delay.
        has_waited = isinstance(error, TrackingError)
        hurried = search.model_copy(update={"outage_s": 0.0 if has_waited else _PARTING_S})
        with suppress(MsftError):
            tracking.end_runs(hurried, experiment, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise


@task(name="crown champion", task_run_name="crown champion", cache_policy=NO_CACHE, **RETRY)
def crown_champion(
    config: SearchConfig, search: SearchRef, inputs: Inputs, state: SearchState
) -> ChampionResult:
    """Export the champion, score it once on test, register it, and return the result.

    A search that has its champion returns it as it is on record: test is never scored again. Of its checkpoints only
    the champion's stays on the disk.
    """
    recorded = [event for event in read_events(search.directory) if event["event"] == "champion_crowned"]
    if recorded:
        result = ChampionResult.model_validate(recorded[0]["champion"])
    else:
        result = _crown(config, search, inputs, state)
        append_event(
            search.directory, {"event": "champion_crowned", "champion": result.model_dump(mode="json")}
        )
    keep_the_champion(search, state)
    return result


def _crown(config: SearchConfig, search: SearchRef, inputs: Inputs, state: SearchState) -> ChampionResult:
    assert state.champion is not None
    key = state.champion.checkpoint
    checkpoint = find_whole(search, registry.find_checkpoint(search, key))
    test = score_champion(
        config, search, inputs, checkpoint, open_test_splits(config, inputs.model, inputs.sub_datasets)
    )
    directory = Path(search.directory, "champion")
    validation = _held(search, inputs, state)
    card = card_of(config, search, read_events(search.directory), key, (validation, test))
    card.write(directory)
    result = ChampionResult(
        key=key,
        directory=str(directory),
        model_version=registry.register_champion(search, directory, key, card),
        validation=validation,
        test=test if test.scores else None,
    )
    registry.mark_checkpoint(search, key, {"msft.champion": "true"})
    hashes = {part.name: part.test_sha256 for part in inputs.sub_datasets if part.test_sha256 is not None}
    run_log.log_test_datasets(search, test, hashes)
    registry.log_test_scores(search, checkpoint, test, {name: sha256[:16] for name, sha256 in hashes.items()})
    return result


def _params(config: SearchConfig, inputs: Inputs) -> dict[str, Any]:
    """Return the configuration as flat MLflow params, without the sub-datasets' (logged as datasets)."""
    flat: dict[str, Any] = {"sub_datasets": ", ".join(inputs.names), "seed": config.seed}
    for section in ("model", "training", "evaluation", "search"):
        for key, value in getattr(config, section).model_dump(mode="json").items():
            flat[f"{section}.{key}"] = value
    return flat


def _content(inputs: Inputs) -> dict[str, str]:
    """Return the hashes of all that the result depends on beside the configuration."""
    content = {"base model": inputs.model.sha256}
    for part in inputs.sub_datasets:
        content[f"{part.name}/train"] = part.train.sha256
        content[f"{part.name}/validation"] = part.validation.sha256
        content[f"{part.name}/test"] = part.test_sha256 or "none"
    return content


def meet_changes(config: SearchConfig, directory: str, inputs: Inputs, accept_changes: bool) -> None:
    """Refuse what would change a search's result, unless it is accepted, and name what would not.

    MLflow has not heard of it then: a search that is refused keeps the status it has there.

    Args:
        config, directory, inputs: as `open_search`.
        accept_changes: whether it may go on with other packages or processes than it began with.

    Raises:
        ChangedWorldError: the data or the base model is not what the search began with; or how it is computed,
            unless those changes are accepted.
    """
    events = read_events(directory)
    if not events:
        return
    changed = differences(events[0]["content"], _content(inputs))
    if changed:
        raise ChangedWorldError(search_id_of(config), changed, can_be_accepted=False)
    world = numerical_environment(config)
    changed = differences([event for event in events if "world" in event][-1]["world"], world)
    if changed and not accept_changes:
        raise ChangedWorldError(search_id_of(config), changed, can_be_accepted=True)
    if changed:
        append_event(directory, {"event": "world_changed", "differences": changed, "world": world})
        logger.warning(f"accepted, and on record in the journal: {'; '.join(changed)}")
    since_start = changes_between(events[0]["world"], world)  # what was accepted before, too
    for remark in other_changes(events[0]["environment"], describe_environment(), since_start):
        logger.info(f"not as at the start: {remark}")


def _held(search: SearchRef, inputs: Inputs, state: SearchState) -> CheckpointScores:
    """Return the champion's validation scores as MLflow holds them."""
    assert state.champion is not None
    key = state.champion.checkpoint
    held = registry.held_scores(search, key)
    scores = tuple(held_score(held, key, name) for name in inputs.names)
    return CheckpointScores(key=key, sha256="", scores=scores, cost=held.cost())


def held_score(held: registry.HeldScores, key: CheckpointKey, name: str) -> SubDatasetScore:
    """Return a sub-dataset's score as MLflow holds it.

    Raises:
        EmptyCurveError: its loss or its number of rows is not there, so that it was not measured.
    """
    loss, count = held.value("loss", name), held.value("num_examples", name)
    if loss is None or count is None:
        raise EmptyCurveError(f"{name} at {key}")
    accuracy = held.value("accuracy", name)
    return SubDatasetScore(
        sub_dataset=name, accuracy=accuracy, loss=loss, num_examples=int(count), correct=""
    )
