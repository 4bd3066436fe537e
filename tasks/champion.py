"""Crown the champion: export it, score it once on the test splits, register it, and delete all other checkpoints."""

from __future__ import annotations

from pathlib import Path

from tasks.algorithm.state import CheckpointKey, SearchState
from tasks.config.schema import SearchConfig
from tasks.contracts import ChampionResult, CheckpointScores, Inputs, SearchRef, SubDatasetScore
from tasks.data.inputs import open_test_splits
from tasks.errors import EmptyCurveError
from tasks.evaluation import score_champion
from tasks.record.events import ChampionCrowned, champion_of
from tasks.record.journal import append_event, read_events
from tasks.record.ownership import own_cache
from tasks.registry.checkpoints import (
    LoggedScores,
    find_checkpoint,
    log_test_scores,
    logged_scores,
    mark_checkpoint,
    register_champion,
)
from tasks.registry.points import log_test_datasets
from tasks.report.model_card import card_of
from tasks.rollback import find_whole, keep_the_champion
from tasks.stage import stage


@stage("crown champion")
def crown_champion(
    config: SearchConfig, search: SearchRef, inputs: Inputs, state: SearchState
) -> ChampionResult:
    """Export the champion, score it once on test, register it, and return the result.

    A search that has its champion returns it as it is on record: test is never scored again. Of its checkpoints only
    the champion's stays on the disk.
    """
    crowned = champion_of(read_events(search.directory))
    if crowned is None:
        crowned = ChampionCrowned(champion=_crown(config, search, inputs, state))
        append_event(search.directory, crowned)
    keep_the_champion(search, state)
    return crowned.champion


def _crown(config: SearchConfig, search: SearchRef, inputs: Inputs, state: SearchState) -> ChampionResult:
    assert state.champion is not None
    key = state.champion.checkpoint
    checkpoint = find_whole(search, find_checkpoint(search, key))
    with own_cache(config):
        splits = open_test_splits(config, inputs)
    test = score_champion(config, search, inputs, checkpoint, splits)
    directory = Path(search.directory, "champion")
    validation = _held(search, inputs, state)
    card = card_of(config, search, read_events(search.directory), key, (validation, test))
    card.write(directory)
    result = ChampionResult(
        key=key,
        directory=str(directory),
        model_version=register_champion(search, directory, key, card),
        validation=validation,
        test=test if test.scores else None,
    )
    mark_checkpoint(search, key, {"msft.champion": "true"})
    hashes = {part.name: part.test_sha256 for part in inputs.sub_datasets if part.test_sha256 is not None}
    log_test_datasets(search, test, hashes)
    log_test_scores(search, checkpoint, test, {name: sha256[:16] for name, sha256 in hashes.items()})
    return result


def _held(search: SearchRef, inputs: Inputs, state: SearchState) -> CheckpointScores:
    """Return the champion's validation scores as MLflow holds them."""
    assert state.champion is not None
    key = state.champion.checkpoint
    held = logged_scores(search, key)
    scores = tuple(logged_score(held, key, name) for name in inputs.names)
    return CheckpointScores(key=key, sha256="", scores=scores, cost=held.cost())


def logged_score(held: LoggedScores, key: CheckpointKey, name: str) -> SubDatasetScore:
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
