"""Crown the champion: export it, score it once on the test splits, register it, and delete all other checkpoints."""

from __future__ import annotations

from pathlib import Path

from tasks.algorithm.state import SearchState
from tasks.contracts import ChampionResult, CheckpointScores, RegisteredCheckpoint, SearchRun
from tasks.data.inputs import open_test_splits
from tasks.errors import EmptyCurveError
from tasks.evaluation import score_champion
from tasks.record.events import ChampionCrowned, champion_of
from tasks.record.journal import append_event, read_events
from tasks.record.ownership import own_cache
from tasks.registry.champion import log_test_scores, register_champion
from tasks.registry.checkpoints import find_checkpoint
from tasks.registry.points import log_test_datasets
from tasks.report.model_card import card_of
from tasks.rollback import find_whole, keep_the_champion
from tasks.stage import stage


@stage("crown champion")
def crown_champion(search: SearchRun, state: SearchState) -> ChampionResult:
    """Export the champion, score it once on test, register it, and return the result.

    A search that has crowned its champion returns the recorded result: test is never scored again. Of the checkpoints,
    only the champion's stays on the disk.
    """
    directory = search.ref.directory
    crowned = champion_of(read_events(directory))
    if crowned is None:
        crowned = append_event(directory, ChampionCrowned(champion=_crown(search, state)))
    keep_the_champion(search.ref, state)
    return crowned.champion


def _crown(search: SearchRun, state: SearchState) -> ChampionResult:
    assert state.champion is not None
    ref, parts = search.ref, search.inputs.sub_datasets
    checkpoint = find_whole(ref, find_checkpoint(ref, state.champion.checkpoint))
    with own_cache(search.config):
        splits = open_test_splits(search.config, search.inputs)
    test = score_champion(search, checkpoint, splits)
    directory = Path(ref.directory, "champion")
    validation = _validation_of(checkpoint, search.inputs.names)
    card = card_of(search.config, ref, read_events(ref.directory), checkpoint.key, (validation, test))
    card.write(directory)
    registered = register_champion(ref, directory, checkpoint, card)
    hashes = {part.name: part.test_sha256 for part in parts if part.test_sha256 is not None}
    log_test_datasets(ref, test, hashes)
    digests = {name: sha256[:16] for name, sha256 in hashes.items()}
    log_test_scores(ref, registered, checkpoint, test, digests)
    return ChampionResult(
        key=checkpoint.key,
        directory=str(directory),
        model_version=registered.version,
        validation=validation,
        test=test if test.scores else None,
    )


def _validation_of(checkpoint: RegisteredCheckpoint, names: tuple[str, ...]) -> CheckpointScores:
    """Return the champion's validation scores as MLflow holds them, in the mixture's order.

    Raises:
        EmptyCurveError: MLflow does not hold the scores of every sub-dataset.
    """
    held = {score.sub_dataset: score for score in checkpoint.scores.scores} if checkpoint.scores else {}
    missing = [name for name in names if name not in held]
    if checkpoint.scores is None or missing:
        raise EmptyCurveError(f"{missing[0]} at {checkpoint.key}")
    return checkpoint.scores.model_copy(update={"scores": tuple(held[name] for name in names)})
