"""A search told in Markdown, for whoever reads its pages: what was excluded when and why, what it cost, who won."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tasks.algorithm.costs import LedgerLine, ledger_lines, total_by_kind
from tasks.algorithm.state import CheckpointKey, SearchState, fold

Events = Sequence[Mapping[str, Any]]
# MLflow cuts a run's description at 8,000 characters; what does not fit is in the journal.
_LONGEST_REASONS = 5000
_ROW_FRAME = 25


def tell_search(events: Events) -> str:
    """Return where a search stands, what it excluded and why, its cost and, at its end, the champion's scores."""
    state = fold(events)
    assert state is not None
    by_loss = is_by_loss(events)
    parts = [_standing(state), _champion_line(state, by_loss), exclusions_line(state, by_loss=by_loss)]
    parts += [_reasons(events), _scores(events, state, by_loss), _costs(events)]
    return "\n\n".join(part for part in parts if part)


def tell_round(event: Mapping[str, Any], *, by_loss: bool) -> str:
    """Return a round's decision in words, what it rests on, and what the round cost."""
    decision = event["decision"]
    unit = _unit(by_loss)
    rows = [
        (v["sub_dataset"], v["peak"]["step"], _shown(v["peak_score"]), _shown(v["end_score"]), v["word"])
        for v in decision["verdicts"]
    ]
    headings = ("sub-dataset", "peak at step", f"{unit} at peak", f"{unit} at the end", "verdict")
    parts = [
        f"**Decision of round {event['round']}:** {decision['reason']}.",
        table(headings, rows),
        table(_COST_HEADINGS, _cost_rows(ledger_lines(event))),
    ]
    return "\n\n".join(part for part in parts if part)


def round_rows(events: Events) -> list[dict[str, Any]]:
    """Return one row a round: what was trained, what was decided, and what it cost."""
    return [
        {
            "round": event["round"],
            "active": ", ".join(event["active"]),
            "excluded": ", ".join(event["decision"]["exclude"]) or "none",
            "rolled back to": str(CheckpointKey(**event["decision"]["roll_back_to"])),
            "champion so far": str(CheckpointKey(**event["champion"]["checkpoint"])),
            f"its mean {_unit(is_by_loss(events))}": round(abs(event["champion"]["score"]), 4),
            **{f"{line.kind} tokens": line.num_tokens for line in ledger_lines(event)},
        }
        for event in rounds_of(events)
    ]


def rounds_of(events: Events) -> list[Mapping[str, Any]]:
    """Return the decisions, in their order."""
    return [event for event in events if event["event"] == "round_decided"]


def is_by_loss(events: Events) -> bool:
    """Say whether the search selects by loss; its scores are then negated losses."""
    return bool(events[0]["config"]["evaluation"]["selection"] == "loss")


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


def champion_rows(champion: Mapping[str, Any], state: SearchState, *, by_loss: bool) -> Iterator[list[str]]:
    """Yield a row a sub-dataset: validation, at its exclusion, and test score of a `ChampionResult`."""
    column = _unit(by_loss)
    at_exclusion = {e.sub_dataset: abs(e.score) for e in state.excluded}
    test = {s["sub_dataset"]: s for s in (champion["test"] or {"scores": []})["scores"]}
    for score in champion["validation"]["scores"]:
        name = score["sub_dataset"]
        tested = test.get(name, {})
        values = (score[column], at_exclusion.get(name), tested.get("loss"), tested.get("accuracy"))
        yield [name, *(_shown(value) for value in values)]


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
    for event in reversed(rounds_of(events)):
        row = (event["round"], ", ".join(event["active"]), event["decision"]["reason"])
        room -= sum(len(str(cell)) for cell in row) + _ROW_FRAME
        if room < 0:
            break
        rows.insert(0, row)
    hidden = len(rounds_of(events)) - len(rows)
    remark = f"\n\nThe {hidden} rounds before these are in `journal.jsonl`." if hidden else ""
    return table(("round", "trained on", "decision and reason"), rows) + remark


def _scores(events: Events, state: SearchState, by_loss: bool) -> str:
    crowned = [event["champion"] for event in events if event["event"] == "champion_crowned"]
    if not crowned:
        return ""
    rows = champion_rows(crowned[0], state, by_loss=by_loss)
    return f"**Champion's scores:**\n\n{table(champion_headings(by_loss=by_loss), rows)}"


def _costs(events: Events) -> str:
    totals = total_by_kind(line for event in rounds_of(events) for line in ledger_lines(event))
    return f"**Cost:**\n\n{table(_COST_HEADINGS, _cost_rows(totals.values()))}" if totals else ""


def _cost_rows(lines: Iterable[LedgerLine]) -> Iterator[list[str]]:
    for line in lines:
        yield [
            line.kind, f"{line.num_tokens:,}", f"{line.num_examples:,}", f"{line.flops:.3g}", f"{line.seconds:,.1f}",
        ]  # fmt: skip
