"""A search told in Markdown, for whoever reads its pages: what was excluded when and why, what it cost, who won."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tasks.algorithm.costs import LedgerLine, total_by_kind
from tasks.algorithm.state import SearchState
from tasks.contracts import CheckpointScores
from tasks.record.events import Event, RoundDecided, champion_of, rounds_of, start_of
from tasks.record.journal import History

Events = Sequence[Event]
# MLflow cuts a run's description at 8,000 characters; what does not fit is in the journal.
_LONGEST_REASONS = 5000
_ROW_FRAME = 25


def tell_search(events: Events) -> str:
    """Return where a search stands, what it excluded and why, its cost and, at its end, the champion's scores."""
    state = History.of(events).state
    by_loss = start_of(events).by_loss
    parts = [_standing(state), _champion_line(state, by_loss), exclusions_line(state, by_loss=by_loss)]
    parts += [_reasons(events), _scores(events, state, by_loss), _costs(events)]
    return "\n\n".join(part for part in parts if part)


def tell_round(decided: RoundDecided, *, by_loss: bool) -> str:
    """Return a round's decision in words, what it rests on, and what the round cost."""
    decision = decided.decision
    unit = _unit(by_loss)
    rows = [
        (v.sub_dataset, v.peak.step, _shown(v.peak_score), _shown(v.end_score), v.word)
        for v in decision.verdicts
    ]
    headings = ("sub-dataset", "peak at step", f"{unit} at peak", f"{unit} at the end", "verdict")
    parts = [
        f"**Decision of round {decided.round}:** {decision.reason}.",
        table(headings, rows),
        table(_COST_HEADINGS, _cost_rows(decided.ledger)),
    ]
    return "\n\n".join(part for part in parts if part)


def round_rows(events: Events) -> list[dict[str, Any]]:
    """Return one row a round: what was trained, what was decided, and what it cost."""
    unit = _unit(start_of(events).by_loss)
    return [
        {
            "round": decided.round,
            "active": ", ".join(decided.active),
            "excluded": ", ".join(decided.decision.exclude) or "none",
            "rolled back to": str(decided.decision.roll_back_to),
            "champion so far": str(decided.champion.checkpoint),
            f"its mean {unit}": round(abs(decided.champion.score), 4),
            **{f"{line.kind} tokens": line.num_tokens for line in decided.ledger},
        }
        for decided in rounds_of(events)
    ]


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table; empty without rows."""
    lines = [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(headings)} |", "|" + " --- |" * len(headings), *lines])


def spaced(markdown: str) -> str:
    """Return the same text with wider cells, for MLflow's pages, which leave no space between columns."""
    lines = markdown.split("\n")
    return "\n".join(line if line.startswith("| ---") else line.replace(" | ", "&emsp; | ") for line in lines)


def champion_rows(
    validation: CheckpointScores, test: CheckpointScores | None, state: SearchState, *, by_loss: bool
) -> Iterator[list[str]]:
    """Yield a row a sub-dataset: its validation score, score at its exclusion, test loss and test accuracy."""
    at_exclusion = {e.sub_dataset: abs(e.score) for e in state.excluded}
    tested = {score.sub_dataset: score for score in (test.scores if test is not None else ())}
    for score in validation.scores:
        own = tested.get(score.sub_dataset)
        values = (
            score.loss if by_loss else score.accuracy,
            at_exclusion.get(score.sub_dataset),
            own.loss if own is not None else None,
            own.accuracy if own is not None else None,
        )
        yield [score.sub_dataset, *(_shown(value) for value in values)]


def champion_headings(*, by_loss: bool) -> list[str]:
    """Return the headings of `champion_rows`."""
    unit = _unit(by_loss)
    return ["sub-dataset", f"validation {unit}", f"{unit} at exclusion", "test loss", "test accuracy"]


_COST_HEADINGS = ("work", "tokens", "examples", "FLOPs", "seconds")


def _unit(by_loss: bool) -> str:
    return "loss" if by_loss else "accuracy"


def _shown(value: float | None) -> str:
    """Return a score as it was measured: a negated loss as the loss, and what was not measured as a dash."""
    return "–" if value is None else f"{abs(value):.3f}"


def _standing(state: SearchState) -> str:
    if state.is_finished:
        return f"**Ended** after {state.round} rounds: {state.stop_reason}."
    return f"**Under way:** round {state.round} on {', '.join(state.active)}."


def _champion_line(state: SearchState, by_loss: bool) -> str:
    if state.champion is None:
        return ""
    far = "" if state.is_finished else " so far"
    value = f"mean validation {_unit(by_loss)} {abs(state.champion.score):.4f}"
    return f"**Champion{far}:** {state.champion.checkpoint}, {value} over all sub-datasets."


def exclusions_line(state: SearchState, *, by_loss: bool) -> str:
    """Return what was excluded, in order: when, from where the search went on, and its score there."""
    unit = _unit(by_loss)
    each = [
        f"{e.sub_dataset} (round {e.round}, the search went on from {e.checkpoint}, {unit} {abs(e.score):.3f})"
        for e in state.excluded
    ]
    return f"**Excluded, in order:** {'; '.join(each) or 'none'}."


def _reasons(events: Events) -> str:
    """Return the newest decisions with their reasons, as many as fit, in order."""
    rows: list[tuple[Any, ...]] = []
    room = _LONGEST_REASONS
    for decided in reversed(rounds_of(events)):
        row = (decided.round, ", ".join(decided.active), decided.decision.reason)
        room -= sum(len(str(cell)) for cell in row) + _ROW_FRAME
        if room < 0:
            break
        rows.insert(0, row)
    hidden = len(rounds_of(events)) - len(rows)
    remark = f"\n\nThe {hidden} rounds before these are in `journal.jsonl`." if hidden else ""
    return table(("round", "trained on", "decision and reason"), rows) + remark


def _scores(events: Events, state: SearchState, by_loss: bool) -> str:
    crowned = champion_of(events)
    if crowned is None:
        return ""
    rows = champion_rows(crowned.champion.validation, crowned.champion.test, state, by_loss=by_loss)
    return f"**Champion's scores:**\n\n{table(champion_headings(by_loss=by_loss), rows)}"


def _costs(events: Events) -> str:
    totals = total_by_kind(line for decided in rounds_of(events) for line in decided.ledger)
    return f"**Cost:**\n\n{table(_COST_HEADINGS, _cost_rows(totals.values()))}" if totals else ""


def _cost_rows(lines: Iterable[LedgerLine]) -> Iterator[list[str]]:
    for line in lines:
        yield [
            line.kind, f"{line.num_tokens:,}", f"{line.num_examples:,}", f"{line.flops:.3g}", f"{line.seconds:,.1f}",
        ]  # fmt: skip
