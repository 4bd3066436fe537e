"""Crown the champion: export it, score it once on the test splits, register it, and delete all other checkpoints."""

from __future__ import annotations

from pathlib import Path

from tasks.contracts import ChampionResult, CheckpointScores, RegisteredCheckpoint, SearchRun
from tasks.data.inputs import open_splits
from tasks.errors import EmptyCurveError
from tasks.evaluation import score_champion
from tasks.record.events import ChampionCrowned, Soup
from tasks.record.journal import History, append_event
from tasks.record.ownership import own_cache
from tasks.record.paths import CHAMPION, SOUP, SOUP_AVERAGE
from tasks.record.view import view_of
from tasks.registry.champion import log_test_scores, register_champion
from tasks.registry.checkpoints import find_checkpoint
from tasks.registry.runs import log_datasets
from tasks.report.markdown import card_of
from tasks.rollback import find_whole, keep_the_champion
from tasks.soup import scores_of_average
from tasks.stage import stage


@stage("crown champion")
def crown_champion(search: SearchRun, history: History, soup: Soup | None) -> History:
    """Export the champion, score it once on test, register it, and return the history with it.

    A search that has crowned its champion keeps the recorded result: test is never scored again. Of the checkpoints,
    only the champion's stays on the disk, and the average if it is one.

    Args:
        soup: the checkpoints to average, with `search.champion: soup`; the average lies in the search's directory.
    """
    if history.crowned is None:
        crowned = ChampionCrowned(champion=_crown(search, history, soup), soup=soup)
        history = history.after(append_event(search.ref.directory, crowned))
    keep_the_champion(search.ref, history.state)
    return history


def _crown(search: SearchRun, history: History, soup: Soup | None) -> ChampionResult:
    assert history.state.champion is not None
    ref, parts = search.ref, search.inputs.sub_datasets
    checkpoint = find_whole(ref, find_checkpoint(ref, history.state.champion.checkpoint), with_state=False)
    with own_cache(search.config):
        splits = open_splits(search.config, search.inputs.model, "test")
    if soup is not None and soup.is_average:
        validation = scores_of_average(search, soup)
        test = score_champion(search, checkpoint.model_copy(update={"directory": f"{SOUP}/{SOUP_AVERAGE}"}), splits)
    else:
        validation = _validation_of(checkpoint, search.inputs.names)
        test = score_champion(search, checkpoint, splits)
    directory = Path(ref.directory, CHAMPION)
    card = card_of(view_of(history, ref.directory), directory, checkpoint.key, (validation, test), soup)
    card.write(directory)
    registered = register_champion(ref, directory, checkpoint, card)
    hashes = {part.name: part.test_sha256 for part in parts if part.test_sha256 is not None}
    # Not before, since a search must not depend on them.
    log_datasets(ref, [(s.sub_dataset, "test", hashes[s.sub_dataset], {"rows": s.num_examples}) for s in test.scores])
    digests = {name: sha256[:16] for name, sha256 in hashes.items()}
    log_test_scores(ref, registered, checkpoint, validation, test, digests)
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
