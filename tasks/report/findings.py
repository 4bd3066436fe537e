"""What a search came to: in sentences, as scores from exclusion to champion, and the warnings about it."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.algorithm.curves import Curve
from tasks.algorithm.state import CheckpointKey
from tasks.contracts import SubDatasetScore
from tasks.record.headroom import Headroom
from tasks.record.view import FULL_EPOCHS, Metric, RoundView, SearchView
from tasks.report import words
from tasks.report.soup import champion_name
from tasks.report.tables import mean_of

# Measured: with 100 validation rows a decision repeats only half of the time between two halves of the data.
FEW_ROWS = 200


def verdict(view: SearchView) -> tuple[str, ...]:
    """Return what was excluded and why, which checkpoint won and how good it is, the cost, and any known headroom."""
    found = headroom_text(view.headroom)
    return (_exclusions(view), _champion(view), _cost(view), *([f"Headroom: {found}."] if found else []))


def headroom_text(found: Headroom | None) -> str:
    """Return what any stopping by sub-dataset could gain at most, and what follows; empty where it is not known."""
    if found is None:
        return ""
    best, error, low, high = (100 * value for value in (max(0, found.estimate), found.error, found.low, found.high))
    advice = (
        "exclusions by sub-dataset may win here"
        if found.is_found
        else "nothing to win by exclusion up to here; SFT with averaged weights is the answer"
    )
    return (
        f"at most {best:.1f} ± {error:.1f} points (95 % interval {low:.1f} to {high:.1f}, from "
        f"{words.counted(found.num_checkpoints, 'checkpoint')}): {advice}"
    )


def standing(view: SearchView) -> str:
    """Return whether the search has ended, and why, or how far it is."""
    rounds = words.counted(len(view.rounds), "round")
    if view.crowned is not None:
        return f"Ended after {rounds}: {view.state.stop_reason}"
    if view.state.is_finished:
        return f"Ended after {rounds} ({view.state.stop_reason}), but its champion is not scored yet"
    now = "" if view.round_under_way is None else f"; round {view.round_under_way} is under way or was interrupted"
    return f"Unfinished: {rounds} decided{now}"


def is_champion_discarded(view: SearchView) -> bool:
    """Return whether a rollback discarded the champion."""
    if view.champion is None:
        return False
    key, told = view.champion.checkpoint, view.round_of(view.champion.checkpoint)
    return key in told.own and not told.is_accepted(key)


def changes_of(told: RoundView) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return the sub-datasets that a round's decision excluded or took back, each group with its kind and sign."""
    groups = (("excluded", "− ", told.exclude), ("included", "+ ", told.decided.decision.include))
    return [group for group in groups if group[-1]]


def outcome_of(view: SearchView, told: RoundView) -> str:
    """Return a round's decision in a few words."""
    parts = [sign + words.listed([words.short(name, 16) for name in group], 1) for _, sign, group in changes_of(told)]
    parts += ["new weights"] if told.reweighted else []
    parts += [f"back to step {told.target.step}"] if told.target != max(told.position) else []
    is_end = told is view.rounds[-1] and view.state.is_finished
    return ", ".join([*parts, "end"] if is_end else parts or ["goes on"])


def state_of(view: SearchView, name: str) -> str:
    """Return where a sub-dataset stands, in a few words."""
    left = next((left for left in view.state.excluded if left.sub_dataset == name), None)
    if left is not None:
        return f"excluded in round {left.round}"
    if name not in view.state.active:
        return "not in the mixture yet"
    has_returned = any(name in told.decided.decision.include for told in view.rounds)
    return "active again" if has_returned else "active to the end" if view.state.is_finished else "active"


def _exclusions(view: SearchView) -> str:
    if not view.rounds:
        return "No round is decided yet, so no sub-dataset is excluded."
    so_far = "" if view.state.is_finished else "So far, "
    leaving = [(told, name) for told in view.rounds for name in told.exclude]
    rounds, total = words.counted(len(view.rounds), "round"), words.counted(len(view.names), "sub-dataset")
    if not leaving:
        last = view.rounds[-1].decided.decision.reason
        return f"{so_far}{rounds} over {total} excluded none of them (the last decision: {last})."
    falls = [
        (name, told.index, *(words.score(view.score(point.score).shown) for point in (curve.peak, curve.end)))
        for told, name in leaving
        for curve in [told.curves[name]]
    ]
    each = [f"{name} in round {index} ({peak} → {end})" for name, index, peak, end in falls]
    have_peaked = all(told.curves[name].drop > 0 for told, name in leaving)
    why = "each past its peak" if have_peaked else "each by the decision of its round"
    returns = [
        f"{name} came back in round {told.index}" for told in view.rounds for name in told.decided.decision.include
    ]
    back = f"; {words.listed(returns)}" if returns else ""
    number = len({name for _, name in leaving})
    return (
        f"{so_far}{number} of {total} {'was' if number == 1 else 'were'} excluded in {rounds}, {why} "
        f"({view.selected_on} at the peak → at the end of that roll-out): {words.listed(each)}{back}."
        f"{_relabelled(view)}"
    )


def _relabelled(view: SearchView) -> str:
    """Return which excluded sub-datasets are rehearsed with other labels; empty where none is."""
    told = [
        f"{name} with those of {words.checkpoint(event.checkpoint)} (another than the label in "
        f"{words.counted(event.num_changed, 'row')}; {words.counted(event.num_left_out, 'row')} left out)"
        for name, event in view.history.relabelled.items()
    ]
    return f" Rehearsed with a checkpoint's answers as labels: {words.listed(told)}." if told else ""


def _champion(view: SearchView) -> str:
    champion = view.champion
    if champion is None:
        return "There is no champion yet."
    off_path = ", on a stretch that a rollback discarded," if is_champion_discarded(view) and not view.soup else ""
    where = champion_name(champion.checkpoint, view.soup) + off_path
    good = f"with a mean {view.selected_on} of {words.score(view.score(view.champion_score).shown, 4)}"
    if view.crowned is None:
        closed = "" if view.is_paper_protocol else "; the test splits stay closed until the search ends"
        return f"The best checkpoint so far is {where} {good}{closed}."
    metrics: tuple[Metric, ...] = ("loss", "accuracy")
    tested = [
        f"a mean test {metric} of {words.score(mean, 4)}"
        for metric in (metrics if view.metric == "loss" else metrics[1:])
        # By the paper's protocol the score that selected is that of the test splits, which is told already.
        if not (view.is_paper_protocol and metric == view.metric) and (mean := mean_of(view.tested, metric)) is not None
    ]
    untested = "" if view.is_paper_protocol else "; no sub-dataset has a test split to score it on"
    ending = f" and {' and '.join(tested)}" if tested else untested
    return f"The champion is {where} {good} over all {len(view.names)} sub-datasets{ending}."


def _cost(view: SearchView) -> str:
    if not view.rounds:
        return "No training is on record yet."
    accepted, discarded, evaluation = (view.totals[kind] for kind in ("accepted", "discarded", "evaluation"))
    trained, all_flops = accepted.num_tokens + discarded.num_tokens, view.all_flops
    spent = f"{view.spent:.2f} {view.unit}" if view.unit == FULL_EPOCHS else f"{view.spent:,.0f} rows"
    lost = f"{discarded.num_tokens / trained:.0%} were discarded by rollbacks" if trained else "none counted"
    lost = lost if discarded.num_examples else "none were discarded"
    evaluated = f"{evaluation.flops / all_flops:.0%}" if all_flops else "none"
    repeated = view.totals["restart"].flops
    again = f" and work repeated after interruptions {words.share(repeated / all_flops)}" if repeated else ""
    return (
        f"{'The search' if view.state.is_finished else 'So far it'} trained on {spent} ({trained:,} tokens), of which "
        f"{lost}; of {words.flops(all_flops)} in all, evaluation took {evaluated}{again}."
    )


@dataclass(frozen=True)
class ScoreRow:
    """One sub-dataset from its exclusion to the champion, in the unit that people read; None where there is none."""

    name: str
    rounds: tuple[int, ...]  # whose decision excluded it
    at_exclusion: float | None  # at the checkpoint gone back to when it was last excluded
    at_end: float  # where the accepted path ends
    since_exclusion: float | None  # what it gained to there; higher is better for losses too
    champion: float
    change: float | None  # what it gained from its exclusion to the champion
    note: str  # where the champion stands to the exclusion
    test: SubDatasetScore | None  # of the champion


def score_rows(view: SearchView) -> list[ScoreRow]:
    """Return one row a sub-dataset, in the mixture's order; none before the first decision."""
    if view.champion is None:
        return []
    rows, last, champion = [], view.rounds[-1], view.champion.checkpoint
    for name in view.names:
        at_end, at_champion = last.score(name, last.target), _champion_score(view, name)
        left = next((left for left in view.state.excluded if left.sub_dataset == name), None)
        row = ScoreRow(
            name=name,
            rounds=tuple(told.index for told in view.rounds if name in told.exclude),
            at_exclusion=view.score(left.score).shown if left else None,
            at_end=view.score(at_end).shown,
            since_exclusion=at_end - left.score if left else None,
            champion=view.score(at_champion).shown,
            change=at_champion - left.score if left else None,
            note=_relation(champion, left.checkpoint, left.round) if left and not view.soup else "",
            test=next((score for score in view.tested if score.sub_dataset == name), None),
        )
        rows.append(row)
    return rows


def _champion_score(view: SearchView, name: str) -> float:
    """Return the champion's validation score of a sub-dataset, as the search selects by it."""
    assert view.champion is not None
    key = view.champion.checkpoint
    if view.soup is None or view.crowned is None:
        return view.round_of(key).score(name, key)
    score = next(score for score in view.crowned.validation.scores if score.sub_dataset == name)
    return -score.loss if view.metric == "loss" or score.accuracy is None else score.accuracy


def _relation(champion: CheckpointKey, exclusion: CheckpointKey, decided_in: int) -> str:
    if champion == exclusion:
        return "is the checkpoint of its exclusion"
    if champion.round > decided_in:
        return "is later"
    return "is earlier" if champion < exclusion else "is on the stretch discarded then"


def remarks(view: SearchView) -> dict[str, str]:
    """Return the warnings of a search, the gravest first: by their kind what each says of this search."""
    found = {}
    if view.is_paper_protocol:
        found["selected on test"] = (
            "search.protocol is paper: peaks, exclusions and the champion were chosen on the test splits, as in the "
            "paper, so the test scores here are not those of unseen data."
        )
    if view.accepted_changes:
        changes = words.listed(view.accepted_changes)
        found["changed on the way"] = f"The search went on with {changes}; it may differ from an undisturbed one."
    if view.started.data_warnings:
        found["the data"] = f"Told before training: {'; '.join(view.started.data_warnings)}."
    if few := _few_rows(view):
        found["few validation rows"] = (
            f"{words.listed(few)} {'has' if len(few) == 1 else 'have'} fewer than {FEW_ROWS} validation rows; with "
            "100, a decision repeated only half of the time on the other half of the data."
        )
    if doubts := _noisy_peaks(view):
        found["noisy peak"] = (
            f"The fall that excluded {words.listed(doubts)} may be noise; another seed or more validation rows may "
            "decide otherwise."
        )
    min_delta = float(view.started.config["search"]["min_delta"])
    if lost := _forgotten(view, min_delta):
        found["forgetting"] = (
            f"After their exclusion, {words.listed(lost)} lost more than {min_delta:g} on the accepted path while the "
            "others were trained."
        )
    champion = view.champion.checkpoint if view.champion is not None else None
    if is_champion_discarded(view):
        found["champion off the path"] = (
            f"The best checkpoint, {champion}, lies on a discarded stretch: what the search trained afterwards did "
            "not beat it on the mean over all sub-datasets."
        )
    if champion is not None and view.state.is_finished and champion == view.rounds[0].start:
        found["nothing gained"] = "The champion is the base model itself: no checkpoint was better."
    return found


def _few_rows(view: SearchView) -> list[str]:
    counts = {name: view.rounds[0].curves[name].end.num_examples for name in view.names if view.rounds}
    return [f"{name} ({count})" for name, count in counts.items() if count < FEW_ROWS]


def _noisy_peaks(view: SearchView) -> list[str]:
    if view.started.config["search"]["rule"] == "paired":  # which has tested each fall, row by row
        return []
    doubts = {
        (told.index, name): _doubt(told.curves[name], view.metric) for told in view.rounds for name in told.exclude
    }
    return [f"{name} in round {index} ({doubt})" for (index, name), doubt in doubts.items() if doubt]


def _doubt(curve: Curve, metric: Metric) -> str:
    """Return why the fall from peak to end may be noise, in words; empty where neither sign of it shows.

    The signs: after its peak the curve rose again by as much as it lost in all; or, for an accuracy, the fall is
    within two standard errors of a difference of two scores over so many rows.
    """
    after = [point.score for point in curve.points if point.checkpoint >= curve.peak.checkpoint]
    rise = max(max(after[index:]) - low for index, low in enumerate(after))
    if rise >= curve.drop > 0:
        return f"fell by {curve.drop:.3f}, yet rose by {rise:.3f} again after its peak"
    num_rows = curve.peak.num_examples
    variance = sum(max(0.0, p * (1 - p)) for p in (curve.peak.score, curve.end.score)) / num_rows
    spread = 2 * variance**0.5
    if metric == "accuracy" and 0 < curve.drop <= spread:
        return f"fell by {curve.drop:.3f}, within the ±{spread:.3f} that {num_rows} rows leave open"
    return ""


def _forgotten(view: SearchView, min_delta: float) -> list[str]:
    return [
        f"{row.name} ({words.score(row.at_exclusion)} → {words.score(row.at_end)})"
        for row in score_rows(view)
        if row.since_exclusion is not None and row.since_exclusion < -min_delta
    ]
