"""Open a search, new or resumed, and report an early end to MLflow."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tasks.algorithm.state import SearchState
from tasks.config.identity import changes_between, differences
from tasks.config.loading import dump_config, search_id_of
from tasks.config.schema import SearchConfig
from tasks.contracts import Inputs, SearchRef
from tasks.errors import DriftError, MsftError, TrackingError
from tasks.planning.plan import record_plan
from tasks.record.events import EnvironmentChanged, SearchStarted, of_kind, start_of
from tasks.record.journal import FILE, append_event, read_events, read_state
from tasks.registry.points import log_datasets, log_files
from tasks.registry.runs import end_runs, open_search_run
from tasks.report import prefect_artifacts, terminal
from tasks.runtime.environment import describe_environment, numerical_environment, other_changes
from tasks.runtime.files import write_file
from tasks.stage import stage

logger = logging.getLogger(__name__)

# How long an end waits for an MLflow that is away for a moment; Prefect kills a run 30 s after it told it to end.
_PARTING_S = 8.0


@stage("open search")
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
    search = open_search_run(
        reference_to(config, directory),
        config.tracking.experiment,
        _params(config, inputs),
        is_new=not events,
        parent_run_id=parent_run_id,
    )
    if not events:
        _begin(config, search, inputs)
    log_files(search, [Path(directory, FILE)])
    prefect_artifacts.show_link(search)
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
    write_file(files[0], dump_config(config))  # other searches of this name read it
    write_file(files[1], json.dumps(environment, indent=1) + "\n")
    files.append(record_plan(config, search.directory, inputs))
    log_datasets(search, inputs.sub_datasets)
    log_files(search, files)
    started = SearchStarted(
        search_id=search.search_id,
        sub_datasets=inputs.names,
        opening=config.search.strategy().open(inputs.names),
        config=config.model_dump(mode="json"),
        content=_content(inputs),
        environment=environment,
        numerical_environment=numerical_environment(config),
    )
    append_event(search.directory, started)


@contextmanager
def mark_failed_on_error(search: SearchRef, experiment: str) -> Iterator[None]:
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
            end_runs(hurried, experiment, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise


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


def check_for_drift(config: SearchConfig, directory: str, inputs: Inputs, accept_changes: bool) -> None:
    """Refuse what would change a search's result, unless it is accepted, and name what would not.

    MLflow has not heard of it then: a search that is refused keeps the status it has there.

    Args:
        config, directory, inputs: as `open_search`.
        accept_changes: whether it may go on with other packages or processes than it began with.

    Raises:
        DriftError: the data or the base model is not what the search began with; or how it is computed,
            unless those changes are accepted.
    """
    events = read_events(directory)
    if not events:
        return
    started = start_of(events)
    changed = differences(started.content, _content(inputs))
    if changed:
        raise DriftError(search_id_of(config), changed, can_be_accepted=False)
    world = numerical_environment(config)
    accepted = of_kind(events, EnvironmentChanged)
    newest = accepted[-1].numerical_environment if accepted else started.numerical_environment
    changed = differences(newest, world)
    if changed and not accept_changes:
        raise DriftError(search_id_of(config), changed, can_be_accepted=True)
    if changed:
        append_event(directory, EnvironmentChanged(differences=tuple(changed), numerical_environment=world))
        logger.warning(f"accepted, and on record in the journal: {'; '.join(changed)}")
    since_start = changes_between(started.numerical_environment, world)  # what was accepted before, too
    for remark in other_changes(started.environment, describe_environment(), since_start):
        logger.info(f"not as at the start: {remark}")
