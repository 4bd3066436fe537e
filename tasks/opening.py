"""Open a search, new or resumed, and report an early end to MLflow."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tasks.config.identity import changes_between, differences, dump_config, search_id_of
from tasks.config.schema import SearchConfig
from tasks.contracts import Inputs, SearchRef, SearchRun
from tasks.errors import DriftError, MsftError, TrackingError
from tasks.planning.plan import record_plan
from tasks.record.events import EnvironmentChanged, SearchStarted, of_kind, start_of
from tasks.record.journal import History, append_event, history_of, read_events
from tasks.record.paths import CONFIG, ENVIRONMENT, JOURNAL
from tasks.registry.runs import end_runs, log_datasets, log_files, open_search_run
from tasks.report import messages, prefect_artifacts
from tasks.runtime.files import write_file
from tasks.runtime.machine import describe_environment, numerical_environment, other_changes
from tasks.stage import stage

logger = logging.getLogger(__name__)

# How long the end of a search waits for MLflow; Prefect kills a run 30 s after its SIGTERM.
_PARTING_S = 8.0


@stage("open search")
def open_search(search: SearchRun, parent_run_id: str) -> tuple[SearchRun, History]:
    """Return the search with the ids of its MLflow run, and its history; a new search is recorded with its inputs.

    `parent_run_id` is the run of the comparison that it is part of; empty where it runs alone.

    Raises:
        TrackingError: MLflow does not answer.
    """
    directory, experiment = search.ref.directory, search.config.tracking.experiment
    events, params = read_events(directory), _params(search.config, search.inputs)
    ref = open_search_run(search.ref, experiment, params, is_new=not events, parent_run_id=parent_run_id)
    search = search.model_copy(update={"ref": ref})
    history = history_of(directory, events or [_begin(search)])
    log_files(ref, [Path(directory, JOURNAL)])
    prefect_artifacts.show_link(ref)
    messages.show_search(ref, history.state, is_resumed=bool(events))
    return search, history


def reference_to(config: SearchConfig, directory: str) -> SearchRef:
    """Return the reference to a search, without the ids of its MLflow run."""
    return SearchRef(
        search_id=search_id_of(config),
        name=config.name,
        directory=directory,
        tracking_uri=config.tracking.uri or f"sqlite:///{Path(config.output_root, 'mlflow.db').resolve()}",
        outage_s=60 * config.tracking.outage_minutes,
        experiment_id="",
        run_id="",
    )


def _begin(search: SearchRun) -> SearchStarted:
    """Record a new search; its first event comes last, since all of this is repeated until it is there."""
    config, inputs, directory = search.config, search.inputs, search.ref.directory
    environment = describe_environment()
    files = [Path(directory, file) for file in (CONFIG, ENVIRONMENT)]
    write_file(files[0], dump_config(config))  # other searches of this name read it
    write_file(files[1], json.dumps(environment, indent=1) + "\n")
    files.append(record_plan(config, directory, inputs))
    splits = [
        (part.name, split, rows.sha256, {"rows": rows.num_rows, "tokens": rows.num_tokens})
        for part in inputs.sub_datasets
        for split, rows in (("train", part.train), ("validation", part.validation))
    ]
    log_datasets(search.ref, splits)
    log_files(search.ref, files)
    started = SearchStarted(
        search_id=search.ref.search_id,
        sub_datasets=inputs.names,
        opening=config.search.strategy().open(inputs.names),
        config=config.model_dump(mode="json"),
        content=_content(inputs),
        facts={f"{part.name}/{split}": facts for part in inputs.sub_datasets for split, facts in part.facts.items()},
        data_warnings=tuple(warning for part in inputs.sub_datasets for warning in part.warnings),
        environment=environment,
        numerical_environment=numerical_environment(config),
    )
    return append_event(directory, started)


@contextmanager
def mark_failed_on_error(search: SearchRef, experiment: str) -> Iterator[None]:
    """Mark the runs of a search that ends early as FAILED in MLflow, or as KILLED after a signal.

    The block opens the search's run in `experiment`; the runs are found there by the search's id, so that an end
    while the run is opened is marked too.
    """
    try:
        yield
    except BaseException as error:  # Prefect's TerminationSignal is a BaseException
        # MLflow itself may have failed; that must neither hide the cause nor delay the end.
        has_waited = isinstance(error, TrackingError)
        hurried = search.model_copy(update={"outage_s": 0.0 if has_waited else _PARTING_S})
        with suppress(MsftError):
            end_runs(hurried, experiment, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise


def _params(config: SearchConfig, inputs: Inputs) -> dict[str, Any]:
    """Return the configuration as flat MLflow params; the sub-datasets are logged as datasets."""
    flat: dict[str, Any] = {"sub_datasets": ", ".join(inputs.names), "seed": config.seed}
    for section in ("model", "training", "evaluation", "search"):
        for key, value in getattr(config, section).model_dump(mode="json").items():
            flat[f"{section}.{key}"] = value
    return flat


def _content(inputs: Inputs) -> dict[str, str]:
    """Return the hashes of the base model and of every split."""
    content = {"base model": inputs.model.sha256}
    for part in inputs.sub_datasets:
        content[f"{part.name}/train"] = part.train.sha256
        content[f"{part.name}/validation"] = part.validation.sha256
        content[f"{part.name}/test"] = part.test_sha256 or "none"
    return content


def check_for_drift(search: SearchRun, accept_changes: bool) -> None:
    """Refuse inputs and a numerical environment other than those that the search began with; log other changes.

    With `accept_changes`, another numerical environment is recorded and accepted. MLflow is not asked: a search that
    is refused keeps the status that it has there.

    Raises:
        DriftError: the data or the base model has changed; or the numerical environment, unless that is accepted.
    """
    config, directory = search.config, search.ref.directory
    events = read_events(directory)
    if not events:
        return
    started = start_of(events)
    changed = differences(started.content, _content(search.inputs))
    if changed:
        raise DriftError(search.ref.search_id, changed, can_be_accepted=False)
    current = numerical_environment(config)
    accepted = of_kind(events, EnvironmentChanged)
    newest = accepted[-1].numerical_environment if accepted else started.numerical_environment
    changed = differences(newest, current)
    if changed and not accept_changes:
        raise DriftError(search.ref.search_id, changed, can_be_accepted=True)
    if changed:
        append_event(directory, EnvironmentChanged(differences=tuple(changed), numerical_environment=current))
        logger.warning(f"accepted, and on record in the journal: {'; '.join(changed)}")
    since_start = changes_between(started.numerical_environment, current)  # what was accepted before, too
    for remark in other_changes(started.environment, describe_environment(), since_start):
        logger.info(f"not as at the start: {remark}")
