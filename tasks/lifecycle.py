"""Open a search, or go on with it; and bring it to its end."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks import registry, terminal, tracking
from tasks.algorithm.state import SearchState, fold
from tasks.config import SearchConfig
from tasks.config_file import dump_config, search_id_of
from tasks.contracts import ChampionResult, CheckpointScores, Inputs, SearchRef, SubDatasetScore
from tasks.environment import describe_environment
from tasks.errors import ChangedWorldError, SearchBusyError
from tasks.evaluation import score_champion
from tasks.journal import FILE, append_event, read_events
from tasks.preparation import open_test_splits
from tasks.retrying import RETRY
from tasks.rollback import find_whole

# Prefect ends a run's process 30 s after its SIGTERM; the rest is for a slow machine.
HANDOVER_S = 120.0
_POLL_S = 0.2


@contextmanager
def own_directory(config: SearchConfig, wait_s: float = 0.0) -> Iterator[str]:
    """Give the search's directory to this process alone, after at most `wait_s` seconds.

    Raises:
        SearchBusyError: another process owns it.
    """
    directory = Path(config.output_root, f"{config.name}-{search_id_of(config)}")
    (directory / "rounds").mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("a+") as lock:
        deadline = time.monotonic() + wait_s
        while not _try_lock(lock):
            if time.monotonic() >= deadline:
                lock.seek(0)
                raise SearchBusyError(str(directory), lock.read().strip() or "unknown")
            time.sleep(_POLL_S)
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {os.uname().nodename}\n")
        lock.flush()
        yield str(directory)


def _try_lock(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@task(name="open search", cache_policy=NO_CACHE, **RETRY)
def open_search(config: SearchConfig, directory: str, inputs: Inputs) -> tuple[SearchRef, SearchState]:
    """Return the search and where it stands; a new one is put on record with all it depends on.

    Raises:
        ChangedWorldError: the data or the base model is not what the search began with.
        TrackingError: MLflow does not answer.
    """
    uri = config.tracking.uri or f"sqlite:///{Path(config.output_root, 'mlflow.db').resolve()}"
    search = tracking.open_search_run(
        search_id_of(config), config.name, directory, uri, config.tracking.experiment, _params(config, inputs)
    )
    events = read_events(directory)
    content = _content(inputs)
    if events:
        _check_unchanged(search, events[0], content)
    else:
        environment = describe_environment()
        Path(directory, "config.yaml").write_text(dump_config(config))
        Path(directory, "environment.json").write_text(json.dumps(environment, indent=1) + "\n")
        started = {
            "event": "search_started",
            "search_id": search.search_id,
            "sub_datasets": list(inputs.names),
            "config": config.model_dump(mode="json"),
            "content": content,
            "environment": environment,
        }
        tracking.log_datasets(search, inputs.sub_datasets)
        files = [Path(directory, file) for file in ("config.yaml", "environment.json")]
        tracking.log_files(search, files)
        append_event(directory, started)  # last: without it, all of this is done again
    tracking.log_files(search, [Path(directory, FILE)])
    state = fold(read_events(directory))
    assert state is not None
    terminal.show_search(search, is_resumed=bool(events), round_index=state.round)
    return search, state


@contextmanager
def true_status(search: SearchRef) -> Iterator[None]:
    """Leave a search that ends early as FAILED in MLflow, or as KILLED where it was told to end."""
    try:
        yield
    except BaseException as error:  # Prefect's TerminationSignal is a BaseException
        with suppress(Exception):  # MLflow itself may be what failed, and must not hide the cause
            tracking.close_search_run(search, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise


@task(name="crown champion", cache_policy=NO_CACHE, **RETRY)
def crown_champion(
    config: SearchConfig, search: SearchRef, inputs: Inputs, state: SearchState
) -> ChampionResult:
    """Export the champion, score it once on test, register it, and return the result.

    A search that has its champion returns it as it is on record: test is never scored again.
    """
    recorded = [event for event in read_events(search.directory) if event["event"] == "champion_crowned"]
    if recorded:
        return ChampionResult.model_validate(recorded[0]["champion"])
    assert state.champion is not None
    key = state.champion.checkpoint
    checkpoint = find_whole(search, registry.find_checkpoint(search, key))
    test = score_champion(
        config, search, inputs, checkpoint, open_test_splits(config, inputs.model, inputs.sub_datasets)
    )
    directory = Path(search.directory, "champion")
    result = ChampionResult(
        key=key,
        directory=str(directory),
        model_version=registry.register_champion(search, directory, key),
        validation=_held(search, inputs, state),
        test=test if test.scores else None,
    )
    registry.mark_checkpoint(search, key, {"msft.champion": "true"})
    append_event(search.directory, {"event": "champion_crowned", "champion": result.model_dump(mode="json")})
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


def _check_unchanged(search: SearchRef, started: Mapping[str, Any], content: Mapping[str, str]) -> None:
    before: Mapping[str, str] = started["content"]
    differences = [
        f"{name}: sha256 was {before.get(name, 'absent')[:12]}, is {content.get(name, 'absent')[:12]}"
        for name in sorted({*before, *content})
        if before.get(name) != content.get(name)
    ]
    if differences:
        raise ChangedWorldError(search.search_id, differences)
    now = describe_environment()["versions"]
    for name, old in started["environment"]["versions"].items():
        if now.get(name) != old:
            terminal.warn(
                f"{name} was {old} when this search began and is {now.get(name)}; numbers may differ in the last digits"
            )


def _held(search: SearchRef, inputs: Inputs, state: SearchState) -> CheckpointScores:
    """Return the champion's validation scores as MLflow holds them."""
    assert state.champion is not None
    held = registry.held_scores(search, state.champion.checkpoint)
    scores = tuple(
        SubDatasetScore(
            sub_dataset=name,
            accuracy=held.value("accuracy", name),
            loss=held.value("loss", name) or 0.0,
            num_examples=int(held.value("num_examples", name) or 0),
            correct="",
        )
        for name in inputs.names
    )
    return CheckpointScores(key=state.champion.checkpoint, sha256="", scores=scores, cost=held.cost())
