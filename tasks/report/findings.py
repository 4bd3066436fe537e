"""The result of a search in three sentences."""

from __future__ import annotations

from tasks.algorithm.state import CheckpointKey
from tasks.record.view import FULL_EPOCHS, RoundView, SearchView
from tasks.report import words
from tasks.report.scores import mean_of


def verdict(view: SearchView) -> tuple[str, str, str]:
    """Return what was excluded and why, which checkpoint won and how good it is, and what it cost."""
    return _exclusions(view), _champion(view), _cost(view)


def standing(view: SearchView) -> str:
    """Return whether the search has ended, and why, or how far it is."""
    rounds = words.counted(len(view.rounds), "round")
    if view.crowned is not None:
        return f"Ended after {rounds}: {view.state.stop_reason}"
    if view.state.is_finished:
        return f"Ended after {rounds} ({view.state.stop_reason}), but its champion is not scored yet"
    under_way = view.round_under_way
    now = f"; round {under_way} is under way or was interrupted" if under_way is not None else ""
    return f"Unfinished: {rounds} decided{now}"


def is_discarded(view: SearchView, key: CheckpointKey) -> bool:
    """Return whether a rollback discarded the checkpoint."""
    told = view.round_of(key)
    return key in told.own and not told.is_accepted(key)


def _exclusions(view: SearchView) -> str:
    if not view.rounds:
        return "No round is decided yet, so no sub-dataset is excluded."
    so_far = "" if view.state.is_finished else "So far, "
    leaving = [(told, name) for told in view.rounds for name in told.exclude]
    returns = [
        f"{name} came back in round {told.index}" for told in view.rounds for name in told.decided.decision.include
    ]
    rounds, total = words.counted(len(view.rounds), "round"), words.counted(len(view.names), "sub-dataset")
    if not leaving:
        last = view.rounds[-1].decided.decision.reason
        return f"{so_far}{rounds} over {total} excluded none of them (the last decision: {last})."
    each = [f"{name} in round {told.index} ({_fall(view, told, name)})" for told, name in leaving]
    have_peaked = all(told.curves[name].drop > 0 for told, name in leaving)
    why = "each past its peak" if have_peaked else "each by the decision of its round"
    back = f"; {words.listed(returns)}" if returns else ""
    names = {name for _, name in leaving}
    return (
        f"{so_far}{len(names)} of {total} {'was' if len(names) == 1 else 'were'} excluded in {rounds}, {why} "
        f"({view.selected_on} at the peak → at the end of that roll-out): {words.listed(each)}{back}."
    )


def _fall(view: SearchView, told: RoundView, name: str) -> str:
    curve = told.curves[name]
    return f"{words.score(view.score(curve.peak.score).shown)} → {words.score(view.score(curve.end.score).shown)}"


def _champion(view: SearchView) -> str:
    champion = view.champion
    if champion is None:
        return "There is no champion yet."
    where = words.checkpoint(champion.checkpoint)
    if is_discarded(view, champion.checkpoint):
        where += ", on a stretch that a rollback discarded,"
    good = f"with a mean {view.selected_on} of {words.score(view.score(champion.score).shown, 4)}"
    if view.crowned is None:
        closed = "" if view.is_paper_protocol else "; the test splits stay closed until the search ends"
        return f"The best checkpoint so far is {where} {good}{closed}."
    test = view.crowned.test.scores if view.crowned.test is not None else ()
    tested = [
        f"a mean test {unit} of {words.score(mean, 4)}"
        for unit, by_loss in (("loss", True), ("accuracy", False))
        if (mean := mean_of(test, by_loss=by_loss)) is not None
        and (view.started.by_loss or not by_loss)
        # By the paper's protocol this is the score that selected, which is told already.
        and not (view.is_paper_protocol and by_loss == view.started.by_loss)
    ]
    untested = "" if view.is_paper_protocol else "; no sub-dataset has a test split to score it on"
    ending = f" and {' and '.join(tested)}" if tested else untested
    return f"The champion is {where} {good} over all {len(view.names)} sub-datasets{ending}."


def _cost(view: SearchView) -> str:
    if not view.rounds:
        return "No training is on record yet."
    totals = view.totals
    accepted, discarded, evaluation = (totals[kind] for kind in ("accepted", "discarded", "evaluation"))
    trained = accepted.num_tokens + discarded.num_tokens
    all_flops = view.all_flops
    spent = f"{view.spent:.2f} {view.unit}" if view.unit == FULL_EPOCHS else f"{view.spent:,.0f} rows"
    lost = f"{discarded.num_tokens / trained:.0%} were discarded by rollbacks" if trained else "none counted"
    lost = lost if discarded.num_examples else "none were discarded"
    so_far = "" if view.state.is_finished else "So far it"
    evaluated = f"{evaluation.flops / all_flops:.0%}" if all_flops else "none"
    repeated = totals["restart"].flops
    again = f" and work repeated after interruptions {words.share(repeated / all_flops)}" if repeated else ""
    return (
        f"{so_far or 'The search'} trained on {spent} ({trained:,} tokens), of which {lost}; of "
        f"{words.flops(all_flops)} in all, evaluation took {evaluated}{again}."
    )
