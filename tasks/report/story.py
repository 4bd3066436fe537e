"""Read a search's directory into the values that its report is drawn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tasks.algorithm.costs import LedgerLine, total_by_kind
from tasks.algorithm.curves import Curve
from tasks.algorithm.state import Champion, CheckpointKey, SearchState
from tasks.contracts import ChampionResult, Mixture
from tasks.record.events import EnvironmentChanged, RoundDecided, champion_of, of_kind, rounds_of, start_of
from tasks.record.journal import read_events, read_state
from tasks.record.plan import Comparison, compare_with_plan, read_plan
from tasks.report import words

FULL_EPOCHS = "full-mixture epochs"
ROWS = "training rows"


@dataclass(frozen=True)
class RoundStory:
    """One decided round.

    Attributes:
        start: where its roll-out began; of an earlier round, or the base model.
        own: the checkpoints that its training led to, ascending.
        position: place of `start` and `own` on the axis of all training in the order it was done.
        reweighted: whether other shares were asked for from the next round on.
        shares: share of each sub-dataset in an epoch's rows; empty where no specification of the roll-out is left.
        epochs: length of the roll-out in epochs of its own mixture, where that is known.
    """

    index: int
    active: tuple[str, ...]
    start: CheckpointKey
    own: tuple[CheckpointKey, ...]
    position: Mapping[CheckpointKey, float]
    curves: Mapping[str, Curve]
    target: CheckpointKey
    exclude: tuple[str, ...]
    include: tuple[str, ...]
    reweighted: bool
    reason: str
    num_rows: int
    shares: Mapping[str, float]
    epochs: float | None
    ledger: tuple[LedgerLine, ...]

    @property
    def begin(self) -> float:
        """Return where the round begins on the axis of all training."""
        return self.position[self.start]

    @property
    def end(self) -> float:
        """Return where it ends."""
        return self.position[max(self.position)]

    @property
    def accepted_to(self) -> float:
        """Return the place after which its training was discarded; `begin` where all of it was."""
        return self.position[self.target] if self.target in self.own else self.begin

    def is_accepted(self, key: CheckpointKey) -> bool:
        """Say whether training up to one of its own checkpoints lies on the accepted path, as the ledger has it."""
        return self.target in self.own and key <= self.target

    def score(self, name: str, key: CheckpointKey) -> float:
        """Return a sub-dataset's score at one of the roll-out's checkpoints."""
        return self.curves[name].at(key).score


@dataclass(frozen=True)
class SplitSize:
    """Rows and tokens of a train split."""

    rows: int
    tokens: int
    sha256: str


@dataclass(frozen=True)
class Story:
    """A search as far as its journal tells.

    Attributes:
        unit: what positions count: epochs of the full mixture, or rows where that size is not on record.
        train: size of each sub-dataset's train split, as far as a roll-out's specification names it.
        crowned: the champion with its test scores; None while the search goes on.
        round_under_way: a round that has begun and is not decided.
        accepted_changes: what was accepted on the way that may change the result.
        plan: what the search was to cost beside what it did; empty without a plan or a decided round.
    """

    search_id: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    content: Mapping[str, str]
    began_at: str
    last_event_at: str
    names: tuple[str, ...]
    rounds: tuple[RoundStory, ...]
    state: SearchState
    unit: str
    train: Mapping[str, SplitSize]
    crowned: ChampionResult | None
    round_under_way: int | None
    accepted_changes: tuple[str, ...] = field(default=())
    plan: tuple[Comparison, ...] = field(default=())

    @property
    def title(self) -> str:
        """Return the name by which the search's directory is known."""
        return f"{self.config['name']}-{self.search_id}"

    @property
    def by_loss(self) -> bool:
        """Say whether the search selects by loss; its scores are then negated losses."""
        return bool(self.config["evaluation"]["selection"] == "loss")

    @property
    def metric(self) -> str:
        """Return what a shown score is."""
        split = "test" if self.is_paper_protocol else "validation"
        return f"{split} {'loss' if self.by_loss else 'accuracy'}"

    @property
    def is_paper_protocol(self) -> bool:
        """Say whether the test splits selected."""
        return bool(self.config["search"]["protocol"] == "paper")

    @property
    def champion(self) -> Champion | None:
        """Return the best checkpoint so far."""
        return self.state.champion

    @property
    def spent(self) -> float:
        """Return all training on record, in `unit`."""
        return self.rounds[-1].end if self.rounds else 0.0

    @property
    def totals(self) -> dict[str, LedgerLine]:
        """Return the ledger's sums over all rounds by kind of work."""
        return total_by_kind(line for told in self.rounds for line in told.ledger)

    @property
    def all_flops(self) -> float:
        """Return the FLOPs of all work on record, what was repeated after interruptions among it."""
        return sum(line.flops for line in self.totals.values())

    def shown(self, score: float) -> float:
        """Return a score in the unit that people read: an accuracy, or a loss in nats a token."""
        return words.shown(score, by_loss=self.by_loss)

    def round_of(self, key: CheckpointKey) -> RoundStory:
        """Return the round whose roll-out published a checkpoint; the base model belongs to the first."""
        return next((told for told in self.rounds if key in told.own), self.rounds[0])


def read_story(directory: str) -> Story:
    """Return the search of a directory as far as it is decided.

    Raises:
        JournalError: the journal holds no search, or not the history of one.
    """
    state = read_state(directory)
    events = read_events(directory)
    started, decided, crowned = start_of(events), rounds_of(events), champion_of(events)
    mixtures = [event.mixture for event in decided if event.mixture is not None]
    full_rows = mixtures[0].full_epoch_rows if mixtures else None
    return Story(
        search_id=started.search_id,
        config=started.config,
        environment=started.environment,
        content=started.content,
        began_at=started.at or "unknown",
        last_event_at=events[-1].at or "unknown",
        names=started.sub_datasets,
        rounds=_rounds(decided, full_rows or 1),
        state=state,
        unit=FULL_EPOCHS if full_rows else ROWS,
        train=_train_sizes(mixtures),
        crowned=crowned.champion if crowned is not None else None,
        round_under_way=_round_under_way(directory, state),
        accepted_changes=tuple(
            difference for event in of_kind(events, EnvironmentChanged) for difference in event.differences
        ),
        plan=_plan(directory, decided),
    )


def _plan(directory: str, decided: Sequence[RoundDecided]) -> tuple[Comparison, ...]:
    plan = read_plan(directory)
    return tuple(compare_with_plan(plan, decided)) if plan is not None and decided else ()


def _rounds(decided: Sequence[RoundDecided], rows_per_unit: int) -> tuple[RoundStory, ...]:
    rounds: list[RoundStory] = []
    rows_before = 0
    weights: Mapping[str, float] | None = None
    for event in decided:
        told = _round(event, rows_before, rows_per_unit)
        asked = event.decision.weights
        rounds.append(replace(told, reweighted=asked != weights))
        rows_before, weights = rows_before + told.num_rows, asked
    return tuple(rounds)


def _round(event: RoundDecided, rows_before: int, rows_per_unit: int) -> RoundStory:
    decision = event.decision
    curves = {curve.sub_dataset: _in_order(curve) for curve in event.curves}
    start = min(point.checkpoint for curve in curves.values() for point in curve.points)
    own = tuple(interval.key for interval in event.intervals)
    position = {start: rows_before / rows_per_unit}
    rows = rows_before
    for key, interval in zip(own, event.intervals, strict=True):
        rows += interval.num_examples
        position[key] = rows / rows_per_unit
    return RoundStory(
        index=event.round,
        active=event.active,
        start=start,
        own=own,
        position=position,
        curves=curves,
        target=decision.roll_back_to,
        exclude=decision.exclude,
        include=decision.include,
        reweighted=False,
        reason=decision.reason,
        num_rows=rows - rows_before,
        shares=event.mixture.example_shares if event.mixture is not None else {},
        epochs=event.mixture.epochs if event.mixture is not None else None,
        ledger=event.ledger,
    )


def _in_order(curve: Curve) -> Curve:
    return Curve(curve.sub_dataset, tuple(sorted(curve.points, key=lambda point: point.checkpoint)))


def _train_sizes(mixtures: Sequence[Mixture]) -> dict[str, SplitSize]:
    return {
        draw.name: SplitSize(draw.train.num_rows, draw.train.num_tokens, draw.train.sha256)
        for mixture in mixtures
        for draw in mixture.draws
    }


def _round_under_way(directory: str, state: SearchState) -> int | None:
    has_begun = Path(directory, "rounds", f"{state.round:03d}").is_dir()
    return state.round if has_begun and not state.is_finished else None
