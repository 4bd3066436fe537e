"""The report's tables as rows of values; how they look is the templates' affair."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.algorithm.costs import LedgerLine
from tasks.algorithm.state import CheckpointKey
from tasks.record.view import RoundView, SearchView
from tasks.report import words


@dataclass(frozen=True)
class ScoreRow:
    """One sub-dataset from its exclusion to the champion, in the unit that people read.

    Attributes:
        rounds: rounds whose decision excluded it.
        at_exclusion: score at the checkpoint gone back to when it was last excluded; None while it is active.
        at_end: score where the accepted path ends.
        since_exclusion, change: what it gained from its exclusion to there, and to the champion; higher is better
            for accuracies and losses alike.
        note: where the champion stands to the exclusion.
        test, num_test_rows: the champion on its test split.
    """

    name: str
    rounds: tuple[int, ...]
    at_exclusion: float | None
    at_end: float
    since_exclusion: float | None
    champion: float
    change: float | None
    note: str
    test: float | None
    test_accuracy: float | None
    num_test_rows: int | None


def score_rows(view: SearchView) -> tuple[ScoreRow, ...]:
    """Return one row a sub-dataset, in the mixture's order; none before the first decision."""
    if view.champion is None:
        return ()
    return tuple(_score_row(view, name, view.champion.checkpoint) for name in view.names)


def _score_row(view: SearchView, name: str, champion: CheckpointKey) -> ScoreRow:
    last = view.rounds[-1]
    at_end = last.score(name, last.target)
    at_champion = view.round_of(champion).score(name, champion)
    exclusion = next((left for left in view.state.excluded if left.sub_dataset == name), None)
    at_exclusion = exclusion.score if exclusion else None
    scores = view.crowned.test.scores if view.crowned and view.crowned.test else ()
    test = next((score for score in scores if score.sub_dataset == name), None)
    return ScoreRow(
        name=name,
        rounds=tuple(told.index for told in view.rounds if name in told.exclude),
        at_exclusion=view.score(at_exclusion).shown if at_exclusion is not None else None,
        at_end=view.score(at_end).shown,
        since_exclusion=at_end - at_exclusion if at_exclusion is not None else None,
        champion=view.score(at_champion).shown,
        change=at_champion - at_exclusion if at_exclusion is not None else None,
        note=_relation(champion, exclusion.checkpoint, exclusion.round) if exclusion else "",
        test=(test.loss if view.started.by_loss else test.accuracy) if test else None,
        test_accuracy=test.accuracy if test else None,
        num_test_rows=test.num_examples if test else None,
    )


def _relation(champion: CheckpointKey, exclusion: CheckpointKey, decided_in: int) -> str:
    if champion == exclusion:
        return "is the checkpoint of its exclusion"
    if champion.round > decided_in:
        return "is later"
    if champion < exclusion:
        return "is earlier"
    return "is on the stretch discarded then"


@dataclass(frozen=True)
class DecisionRow:
    """One round in a line; lengths in the view's unit."""

    told: RoundView
    outcome: str
    trained: float
    discarded: float


def decision_rows(view: SearchView) -> tuple[DecisionRow, ...]:
    """Return one row a round."""
    return tuple(
        DecisionRow(told, outcome_of(view, told), told.end - told.begin, told.end - told.accepted_to)
        for told in view.rounds
    )


def outcome_of(view: SearchView, told: RoundView) -> str:
    """Return a round's decision in a few words."""
    groups = (("− ", told.exclude), ("+ ", told.decided.decision.include))
    parts = [sign + words.listed([words.short(name, 16) for name in group], 1) for sign, group in groups if group]
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


@dataclass(frozen=True)
class CostRow:
    """One kind of work over the whole search, and its part of all FLOPs."""

    line: LedgerLine
    flops_share: float


def cost_rows(view: SearchView) -> tuple[CostRow, ...]:
    """Return the sums of each kind of work."""
    total = view.all_flops
    return tuple(CostRow(line, line.flops / total if total else 0.0) for line in view.totals.values())


@dataclass(frozen=True)
class MixtureRow:
    """A sub-dataset's share of each round's rows: None where it is not in the mixture, or not on record."""

    name: str
    shares: tuple[float | None, ...]


def mixture_rows(view: SearchView) -> tuple[MixtureRow, ...]:
    """Return one row a sub-dataset, one share a round."""
    return tuple(MixtureRow(name, tuple(told.shares.get(name) for told in view.rounds)) for name in view.names)


@dataclass(frozen=True)
class DataRow:
    """Data of one sub-dataset; None: not recorded yet."""

    name: str
    source: str
    train_rows: int | None
    train_tokens: int | None
    validation_rows: int | None
    test_rows: int | None
    sha256: str


def data_rows(view: SearchView) -> tuple[DataRow, ...]:
    """Return one row a sub-dataset, in the mixture's order."""
    configured = {part["name"]: part for part in view.started.config["mixture"]["sub_datasets"]}
    tested = {row.name: row.num_test_rows for row in score_rows(view)}
    rows = []
    for name in view.names:
        train = view.train.get(name)
        curve = view.rounds[0].curves[name] if view.rounds else None
        rows.append(
            DataRow(
                name=name,
                source=_source(configured.get(name, {})),
                train_rows=train.rows if train else None,
                train_tokens=train.tokens if train else None,
                validation_rows=curve.end.num_examples if curve else None,
                test_rows=tested.get(name),
                sha256=view.started.content.get(f"{name}/train", train.sha256 if train else ""),
            )
        )
    return tuple(rows)


def _source(part: Mapping[str, Any]) -> str:
    if part.get("hub"):
        return " ".join(str(part[key]) for key in ("hub", "hub_config", "revision") if part.get(key))
    if part.get("synthetic"):
        values = ", ".join(f"{key} {value}" for key, value in part["synthetic"].items())
        return f"generated: {values}"
    return str(part.get("path") or "unknown")


def settings_rows(view: SearchView, sections: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the settings of some sections as (a.b, value); what is not set is left out."""
    return tuple(
        (f"{section}.{key}", _written(value))
        for section in sections
        for key, value in view.started.config[section].items()
        if value is not None
    )


def environment_rows(view: SearchView) -> tuple[tuple[str, str], ...]:
    """Return what the search ran on, versions last."""
    versions = view.started.environment.get("versions", {})
    rest = {key: value for key, value in view.started.environment.items() if key != "versions"}
    return tuple((key, _written(value)) for key, value in {**rest, **versions}.items())


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
