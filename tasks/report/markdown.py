"""A search in Markdown, for MLflow's descriptions, Prefect's artifacts and the model card."""

from __future__ import annotations

from typing import Any

from tasks.record.events import RoundDecided
from tasks.record.view import SearchView
from tasks.report.scores import champion_table, cost_table, decision_table
from tasks.report.table import Table, names, texts

# MLflow cuts a run's description at 8,000 characters; the rest is in the journal.
_LONGEST_REASONS = 5000
_ROW_FRAME = 25


def tell_search(view: SearchView) -> str:
    """Return the standing of a search, its exclusions with reasons, its cost and, at its end, the champion's scores."""
    parts = [_standing(view), _champion_line(view), exclusions_line(view), _reasons(view)]
    if view.crowned is not None:
        scores = champion_table(view, view.crowned.validation, view.crowned.test)
        parts.append(f"**Champion's scores:**\n\n{scores.markdown()}")
    if view.totals:
        parts.append(f"**Cost:**\n\n{cost_table(view.totals.values()).markdown()}")
    return "\n\n".join(part for part in parts if part)


def tell_round(view: SearchView, decided: RoundDecided) -> str:
    """Return a round's decision with its reason, the scores that it rests on, and the cost of the round."""
    parts = [
        f"**Decision of round {decided.round}:** {decided.decision.reason}.",
        decision_table(decided.decision.verdicts, view.metric).markdown(),
        cost_table(decided.ledger).markdown(),
    ]
    return "\n\n".join(part for part in parts if part)


def round_rows(view: SearchView) -> list[dict[str, Any]]:
    """Return a row for each round: mixture, decision and cost."""
    return [
        {
            "round": decided.round,
            "active": ", ".join(decided.active),
            "excluded": ", ".join(decided.decision.exclude) or "none",
            "rolled back to": str(decided.decision.roll_back_to),
            "champion so far": str(decided.champion.checkpoint),
            f"its mean {view.metric}": round(view.score(decided.champion.score).shown, 4),
            **{f"{line.kind} tokens": line.num_tokens for line in decided.ledger},
        }
        for decided in view.history.rounds
    ]


def exclusions_line(view: SearchView) -> str:
    """Return the exclusions in their order: the round, the checkpoint rolled back to, and the score there."""
    each = [
        f"{e.sub_dataset} (round {e.round}, the search went on from {e.checkpoint}, "
        f"{view.metric} {view.score(e.score).shown:.3f})"
        for e in view.state.excluded
    ]
    return f"**Excluded, in order:** {'; '.join(each) or 'none'}."


def spaced(markdown: str) -> str:
    """Return the same text with wider cells, for MLflow's pages, which leave no space between columns."""
    lines = markdown.split("\n")
    return "\n".join(line if line.startswith("| ---") else line.replace(" | ", "&emsp; | ") for line in lines)


def _standing(view: SearchView) -> str:
    state = view.state
    if state.is_finished:
        return f"**Ended** after {state.round} rounds: {state.stop_reason}."
    return f"**Under way:** round {state.round} on {', '.join(state.active)}."


def _champion_line(view: SearchView) -> str:
    if view.champion is None:
        return ""
    far = "" if view.state.is_finished else " so far"
    value = f"mean validation {view.metric} {view.score(view.champion.score).shown:.4f}"
    return f"**Champion{far}:** {view.champion.checkpoint}, {value} over all sub-datasets."


def _reasons(view: SearchView) -> str:
    """Return the newest decisions with their reasons, as many as fit, in order."""
    rows: list[tuple[str, ...]] = []
    room = _LONGEST_REASONS
    for decided in reversed(view.history.rounds):
        row = (str(decided.round), ", ".join(decided.active), decided.decision.reason)
        room -= sum(len(cell) for cell in row) + _ROW_FRAME
        if room < 0:
            break
        rows.insert(0, row)
    hidden = len(view.history.rounds) - len(rows)
    remark = f"\n\nThe {hidden} rounds before these are in `journal.jsonl`." if hidden else ""
    return Table((*names("round"), *texts("trained on", "decision and reason")), rows).markdown() + remark
