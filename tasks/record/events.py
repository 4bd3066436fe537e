"""Events of a search's journal: typed, frozen and versioned. Earlier versions are upgraded as they are read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, TypeAdapter, ValidationError, model_serializer

from tasks.algorithm.answer_shares import SplitFacts
from tasks.algorithm.costs import LedgerLine
from tasks.algorithm.curves import Curve
from tasks.algorithm.soup import Trial, members_of
from tasks.algorithm.state import Champion, CheckpointKey
from tasks.algorithm.strategy import Decision, Opening, RoundReport
from tasks.contracts import ChampionResult, EvaluationCost, IntervalStats, Mixture, ScoreSpec, SplitRef, Value
from tasks.errors import EmptyCurveError, NonFiniteScoreError
from tasks.record.paths import ROLLOUT_SPEC, round_directory
from tasks.record.rollout import Restart

VERSION: Literal[2] = 2


class CheckpointSize(Value):
    """Bytes of one published checkpoint on disk."""

    key: CheckpointKey
    num_bytes: int


class _Event(Value):
    """Base of all events; `at` is the UTC time of its recording, empty until then."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    version: Literal[2] = VERSION
    at: str = ""


class SearchStarted(_Event):
    """The first event of every search.

    Attributes:
        config: the resolved configuration, without passwords; see also the properties below.
        content: SHA-256 of the base model and of every split.
        facts: rows, dropped rows and most frequent answer of every split, as in `content`; empty in older journals.
        data_warnings: why scores may tell little, or what of the rows is not used.
        environment: versions, git commit and hardware.
        numerical_environment: the settings and package versions that can change results in the last digits.
    """

    kind: Literal["search_started"] = "search_started"
    search_id: str
    sub_datasets: tuple[str, ...]
    opening: Opening = Opening()
    config: dict[str, Any]
    content: dict[str, str] = Field(default_factory=dict)
    facts: dict[str, SplitFacts] = Field(default_factory=dict)
    data_warnings: tuple[str, ...] = ()
    environment: dict[str, Any] = Field(default_factory=dict)
    numerical_environment: dict[str, Any] = Field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the search's name."""
        return str(self.config["name"])

    @property
    def by_loss(self) -> bool:
        """Return whether checkpoints are selected by loss; scores are then negated losses."""
        return bool(self.config["evaluation"]["selection"] == "loss")

    @property
    def max_epochs(self) -> float:
        """Return the total budget in full-mixture epochs."""
        return float(self.config["search"]["max_epochs"])


class RoundDecided(_Event):
    """The measurements of one round and the decision that follows from them; see also `DecidedRound`.

    Attributes:
        weights: factors on shares that applied in this round.
        mixture: None for a round of an earlier version whose roll-out specification is gone.
    """

    kind: Literal["round_decided"] = "round_decided"
    round: int
    method: str
    rule: str
    sub_datasets: tuple[str, ...]
    active: tuple[str, ...]
    weights: dict[str, float] | None
    steps_per_epoch: float
    curves: tuple[Curve, ...]
    examples: int
    checkpoints: tuple[CheckpointSize, ...]
    intervals: tuple[IntervalStats, ...]
    evaluation: EvaluationCost
    restarts: tuple[Restart, ...]
    decision: Decision
    scores_at_target: dict[str, float]
    champion: Champion
    stop_reason: str
    mixture: Mixture | None

    @property
    def report(self) -> RoundReport:
        """Return the round as strategies see it, without the rounds before it."""
        return RoundReport(self.round, self.active, self.curves, self.steps_per_epoch)

    @property
    def ledger(self) -> tuple[LedgerLine, ...]:
        """Return the round's four kinds of work.

        Training up to the checkpoint that is rolled back to is accepted; later training is discarded. Restart is
        training that was under way when its process ended, and was done again.
        """
        sizes = {True: 0, False: 0}
        for checkpoint in self.checkpoints:
            sizes[self.is_accepted(checkpoint.key)] += checkpoint.num_bytes
        accepted = [interval for interval in self.intervals if self.is_accepted(interval.key)]
        discarded = [interval for interval in self.intervals if not self.is_accepted(interval.key)]
        return (
            LedgerLine.sum_of(self.round, "accepted", accepted, sizes[True]),
            LedgerLine.sum_of(self.round, "discarded", discarded, sizes[False]),
            LedgerLine.sum_of(self.round, "evaluation", [self.evaluation], 0),
            LedgerLine.sum_of(self.round, "restart", [restart.lost for restart in self.restarts], 0),
        )

    def is_accepted(self, key: CheckpointKey) -> bool:
        """Return whether training up to one of the round's own checkpoints lies on the accepted path."""
        target = self.decision.roll_back_to
        return target.round == self.round and key.step <= target.step


class RowsRelabelled(_Event):
    """The train rows of an excluded sub-dataset with a checkpoint's answers as labels; `cost` counts in `round`.

    `split` lies relative to the search's directory; None: no row is left. `num_changed`: another answer than labelled.
    """

    kind: Literal["rows_relabelled"] = "rows_relabelled"
    round: int
    sub_dataset: str
    checkpoint: CheckpointKey
    split: SplitRef | None
    num_changed: int
    num_left_out: int
    cost: EvaluationCost


class EnvironmentChanged(_Event):
    """A changed numerical environment that was accepted, with the differences in words."""

    kind: Literal["environment_changed"] = "environment_changed"
    differences: tuple[str, ...]
    numerical_environment: dict[str, Any]


def total_cost(costs: Iterable[EvaluationCost]) -> EvaluationCost:
    """Return the sum of the costs of scoring."""
    held = list(costs)
    return EvaluationCost.model_validate(
        {name: sum(getattr(c, name) for c in held) for name in EvaluationCost.model_fields}
    )


class SoupSpec(ScoreSpec):
    """The input of the worker that averages checkpoints: its requests are these, in the order of trial."""

    selection: Literal["accuracy", "loss"]


class Soup(Value):
    """The greedy choice of checkpoints to average, with the cost of scoring; of one member, there is no average."""

    trials: tuple[Trial, ...]
    cost: EvaluationCost

    @property
    def members(self) -> tuple[CheckpointKey, ...]:
        """Return the averaged checkpoints, in the order in which they were added."""
        return members_of(self.trials)

    @property
    def score(self) -> float:
        """Return the mean validation score of the average."""
        return [trial.score for trial in self.trials if trial.is_member][-1]

    @property
    def is_average(self) -> bool:
        """Return whether the champion is an average of several checkpoints."""
        return len(self.members) > 1


class ChampionCrowned(_Event):
    """The end of a search: its champion, exported and scored on test; with `search.champion: soup`, how it was made.

    The scores of an average are those of `champion`, whose key is that of the best checkpoint, its first member.
    """

    kind: Literal["champion_crowned"] = "champion_crowned"
    champion: ChampionResult
    soup: Soup | None = None

    @model_serializer(mode="wrap")
    def _without_absent_soup(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = dump(self)
        return dumped if self.soup is not None else {name: dumped[name] for name in dumped if name != "soup"}


Event = Annotated[
    SearchStarted | RoundDecided | RowsRelabelled | EnvironmentChanged | ChampionCrowned, Field(discriminator="kind")
]
_EVENT: TypeAdapter[Event] = TypeAdapter(Event)
OneEvent = TypeVar("OneEvent", SearchStarted, RoundDecided, RowsRelabelled, EnvironmentChanged, ChampionCrowned)


class EventError(ValueError):
    """One line of a journal is not an event that this version reads; `fix` is empty where restoring it helps."""

    def __init__(self, cause: str, fix: str = "") -> None:
        super().__init__(cause)
        self.fix = fix


def parse_event(line: bytes, search_directory: Path) -> Event:
    """Return the event on one line of the journal in `search_directory`.

    Raises:
        EventError: it is not an event, or one of a newer version.
    """
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise EventError(f"not an event: {error}") from error
    if not isinstance(raw, dict) or not raw.keys() & {"kind", "event"}:
        raise EventError("not an event: an object without a kind")
    version = raw.get("version", 1)
    if not isinstance(version, int) or not 1 <= version <= VERSION:
        fix = "use the version of msft-search that this search was begun with, or a newer one"
        raise EventError(f"an event of version {version!r}, where versions 1 to {VERSION} are known", fix)
    try:
        return _EVENT.validate_python(upgrade(raw, search_directory))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise EventError(f"not an event: {place}: {first['msg']}") from error
    except (EmptyCurveError, NonFiniteScoreError) as error:
        raise EventError(f"not an event: {error}") from error


def upgrade(event: dict[str, Any], search_directory: Path) -> dict[str, Any]:
    """Return an event of any earlier version in the form of this one; others as they are.

    Version 1 had no number, named its kind `event`, and left the mixture to the roll-out's specification.
    """
    if event.get("version", 1) != 1:
        return event
    new = dict(event)
    kind = new.pop("event", None)
    if kind == "world_changed":
        kind = "environment_changed"
    if "world" in new:
        new["numerical_environment"] = new.pop("world")
    if kind == "round_decided":
        mixture = _specified_mixture(search_directory, new.get("round"))
        new = {"method": "msft", "weights": None, "checkpoints": [], "restarts": [], "mixture": mixture} | new
        if mixture is not None:
            new.setdefault("steps_per_epoch", mixture.num_steps / mixture.epochs)
    return {"kind": kind, "version": VERSION, **new}


def _specified_mixture(search_directory: Path, index: Any) -> Mixture | None:
    """Return the mixture of a round from its roll-out's specification, which a search's directory keeps."""
    path = round_directory(search_directory, index) / ROLLOUT_SPEC if isinstance(index, int) else None
    return Mixture.model_validate(json.loads(path.read_text())["mixture"]) if path and path.is_file() else None


def of_kind(events: Iterable[Event], kind: type[OneEvent]) -> list[OneEvent]:
    """Return the events of one class, in their order."""
    return [event for event in events if isinstance(event, kind)]


def rounds_of(events: Iterable[Event]) -> list[RoundDecided]:
    """Return the decided rounds, in their order."""
    return of_kind(events, RoundDecided)


def start_of(events: Sequence[Event]) -> SearchStarted:
    """Return a search's first event."""
    return of_kind(events, SearchStarted)[0]


def champion_of(events: Iterable[Event]) -> ChampionCrowned | None:
    """Return the end of a search; None where it has not come to it."""
    return next(iter(of_kind(events, ChampionCrowned)), None)
