"""One view of a search for all that tell of it: terminal, pages, MLflow, Prefect, model card, frames and `--json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from tasks.algorithm.costs import LedgerLine, total_by_kind
from tasks.algorithm.curves import Curve, MetricPoint
from tasks.algorithm.state import Champion, CheckpointKey, SearchState
from tasks.contracts import ChampionResult, SplitRef, SubDatasetScore
from tasks.record.events import EnvironmentChanged, RoundDecided, SearchStarted, Soup, of_kind
from tasks.record.headroom import Headroom, headroom_of
from tasks.record.journal import History, read_history
from tasks.record.paths import round_directory
from tasks.record.plan import Comparison, compare_with_plan, read_plan
from tasks.record.suspects import Suspects, read_suspects

FULL_EPOCHS = "full-mixture epochs"
ROWS = "training rows"
Metric = Literal["accuracy", "loss"]


@dataclass(frozen=True)
class Score:
    """A score as a search selects by it, higher is better: an accuracy in [0, 1], or a negated loss."""

    value: float
    metric: Metric

    @property
    def shown(self) -> float:
        """Return the score as people read it: an accuracy, or a loss in nats per token."""
        return abs(self.value) if self.metric == "loss" else self.value


@dataclass(frozen=True)
class RoundView:
    """One decided round, placed on the axis of all training in the order in which it was done.

    Attributes:
        start: checkpoint that the roll-out began from; of an earlier round, or the base model.
        own: checkpoints that its training led to, ascending.
        position: place of `start` and `own` on the axis.
        target: checkpoint that the search went on from.
        reweighted: whether the decision asks for other shares than the round had.
    """

    decided: RoundDecided
    start: CheckpointKey
    own: tuple[CheckpointKey, ...]
    position: Mapping[CheckpointKey, float]
    curves: Mapping[str, Curve]
    target: CheckpointKey
    reweighted: bool

    @property
    def index(self) -> int:
        """Return the round's index, from 0."""
        return self.decided.round

    @property
    def exclude(self) -> tuple[str, ...]:
        """Return the sub-datasets that the round's decision excluded."""
        return self.decided.decision.exclude

    @property
    def begin(self) -> float:
        """Return the position at which the round begins."""
        return self.position[self.start]

    @property
    def end(self) -> float:
        """Return the position at which the round ends."""
        return self.position[max(self.position)]

    @property
    def accepted_to(self) -> float:
        """Return the position after which training was discarded; `begin` if all of it was."""
        return self.position[self.target] if self.target in self.own else self.begin

    @property
    def shares(self) -> Mapping[str, float]:
        """Return each sub-dataset's share of an epoch's rows; empty if the mixture is not on record."""
        return self.decided.mixture.example_shares if self.decided.mixture is not None else {}

    def is_accepted(self, key: CheckpointKey) -> bool:
        """Return whether training up to one of its own checkpoints lies on the accepted path."""
        return self.target in self.own and key <= self.target

    def score(self, name: str, key: CheckpointKey) -> float:
        """Return a sub-dataset's score at one of the roll-out's checkpoints."""
        return self.curves[name].at(key).score


@dataclass(frozen=True)
class SearchView:
    """A search as far as its journal tells.

    Attributes:
        unit: of positions: full-mixture epochs, or rows if no mixture is on record.
        train: the train splits, as far as a mixture on record names them.
        accepted_changes: accepted changes of the numerical environment, in words.
        round_under_way: a round that has begun and is not decided.
        plan: the plan against the actual work; empty without a plan or a decided round.
        suspects: suspect train rows by sub-dataset, at its best peak so far; empty where none were looked for.
    """

    history: History
    rounds: tuple[RoundView, ...]
    unit: str
    train: Mapping[str, SplitRef]
    accepted_changes: tuple[str, ...]
    round_under_way: int | None
    plan: tuple[Comparison, ...]
    suspects: Mapping[str, Suspects]

    @property
    def started(self) -> SearchStarted:
        """Return the search's first event: configuration, content, environment."""
        return self.history.started

    @property
    def title(self) -> str:
        """Return the name of the search's directory."""
        return f"{self.started.name}-{self.started.search_id}"

    @property
    def names(self) -> tuple[str, ...]:
        """Return all sub-datasets, in the mixture's order."""
        return self.started.sub_datasets

    @property
    def state(self) -> SearchState:
        """Return the state after all events."""
        return self.history.state

    @property
    def champion(self) -> Champion | None:
        """Return the best checkpoint so far."""
        return self.state.champion

    @property
    def crowned(self) -> ChampionResult | None:
        """Return the champion with its test scores; None while the search goes on."""
        return self.history.crowned.champion if self.history.crowned is not None else None

    @property
    def soup(self) -> Soup | None:
        """Return how the champion was averaged; None where it is a single checkpoint."""
        soup = self.history.soup
        return soup if soup is not None and soup.is_average else None

    @property
    def champion_score(self) -> float:
        """Return the mean validation score of the champion, or of the best checkpoint so far; there must be one."""
        assert self.champion is not None
        return self.champion.score if self.soup is None else self.soup.score

    @property
    def tested(self) -> tuple[SubDatasetScore, ...]:
        """Return the champion's test scores; none while the search goes on, or without a test split."""
        return self.crowned.test.scores if self.crowned is not None and self.crowned.test is not None else ()

    @property
    def metric(self) -> Metric:
        """Return the unit of scores."""
        return "loss" if self.started.by_loss else "accuracy"

    @property
    def selected_on(self) -> str:
        """Return the split and unit of scores, as in `validation accuracy`."""
        return f"{'test' if self.is_paper_protocol else 'validation'} {self.metric}"

    @property
    def is_paper_protocol(self) -> bool:
        """Return whether the test splits selected."""
        return bool(self.started.config["search"]["protocol"] == "paper")

    @property
    def spent(self) -> float:
        """Return all training on record, in `unit`."""
        return self.rounds[-1].end if self.rounds else 0.0

    @cached_property
    def totals(self) -> dict[str, LedgerLine]:
        """Return the ledger's sums over all rounds by kind of work."""
        return total_by_kind(self.history.ledger)

    @property
    def all_flops(self) -> float:
        """Return the FLOPs of all work on record, including work repeated after interruptions."""
        return sum(line.flops for line in self.totals.values())

    @cached_property
    def headroom(self) -> Headroom | None:
        """Return what any stopping by sub-dataset could gain at most; None where the journal does not tell."""
        return headroom_of([told.decided.curves for told in self.rounds])

    def score(self, value: float) -> Score:
        """Return a score of a curve, verdict, exclusion or champion with its unit."""
        return Score(value, self.metric)

    def round_of(self, key: CheckpointKey) -> RoundView:
        """Return the round whose roll-out published a checkpoint; the base model belongs to the first."""
        return next((told for told in self.rounds if key in told.own), self.rounds[0])

    def constant_score(self, name: str, split: str) -> float | None:
        """Return the accuracy of a split's most frequent answer; None where it is not on record."""
        facts = self.started.facts.get(f"{name}/{split}")
        return facts.top_share if facts is not None else None


def read_view(directory: str) -> SearchView:
    """Return the view of the search in a directory.

    Raises:
        JournalError: the journal is empty, or not the history of one search.
    """
    return view_of(read_history(directory), directory)


def view_of(history: History, directory: str) -> SearchView:
    """Return the view of a history; the plan, and whether a round is under way, come from the search's directory."""
    mixtures = [decided.mixture for decided in history.rounds if decided.mixture is not None]
    full_rows = mixtures[0].full_epoch_rows if mixtures else None
    plan, under_way = read_plan(directory), history.state.round
    has_begun = round_directory(directory, under_way).is_dir() and not history.state.is_finished
    return SearchView(
        history=history,
        rounds=tuple(_rounds(history, full_rows or 1)),
        unit=FULL_EPOCHS if full_rows else ROWS,
        # The first one's: later rows of an excluded sub-dataset may have other labels.
        train={draw.name: draw.train for mixture in reversed(mixtures) for draw in mixture.draws},
        accepted_changes=tuple(
            difference for event in of_kind(history.events, EnvironmentChanged) for difference in event.differences
        ),
        round_under_way=under_way if has_begun else None,
        plan=tuple(compare_with_plan(plan, history.rounds, history.soup)) if plan and history.rounds else (),
        suspects=read_suspects(directory),
    )


def _rounds(history: History, rows_per_unit: int) -> list[RoundView]:
    views: list[RoundView] = []
    rows, weights = 0, None
    for decided in history.rounds:
        start = min(point.checkpoint for curve in decided.curves for point in curve.points)
        position = {start: rows / rows_per_unit}
        for interval in decided.intervals:
            rows += interval.num_examples
            position[interval.key] = rows / rows_per_unit
        asked = decided.decision.weights
        own = tuple(interval.key for interval in decided.intervals)
        curves = {c.sub_dataset: Curve(c.sub_dataset, tuple(sorted(c.points, key=_key))) for c in decided.curves}
        target = decided.decision.roll_back_to
        views.append(RoundView(decided, start, own, position, curves, target, reweighted=asked != weights))
        weights = asked
    return views


def _key(point: MetricPoint) -> CheckpointKey:
    return point.checkpoint
