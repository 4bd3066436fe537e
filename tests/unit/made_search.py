"""A search's directory made up by hand: curves and decisions as told, in the form that a search leaves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.algorithm.curves import choose_champion, mean_scores
from tasks.algorithm.state import CheckpointKey
from tasks.config.schema import SearchConfig
from tasks.contracts import EvaluationCost, SubDatasetScore
from tasks.record.events import Event, Soup
from tasks.record.journal import append_event, read_events, read_history
from tasks.record.paths import JOURNAL
from tests.unit.made_events import crowned, curve, decided, interval, mixture, started

ROWS = 100  # train rows of each sub-dataset


class MadeSearch:
    """Writes the journal of a search, round by round.

    Every interval is 10 steps and 100 rows, so that with N sub-datasets it is 1/N of a full-mixture epoch.
    """

    def __init__(
        self, directory: Path, names: Sequence[str], num_validation_rows: int = 400, rows: bool = False, **settings: Any
    ) -> None:
        self.directory = directory
        self.names = tuple(names)
        self.num_validation_rows = num_validation_rows
        self.rows = rows  # whether right and wrong rows are on record
        parts = [{"name": name, "path": f"data/{name}"} for name in names]
        raw: dict[str, Any] = {"name": "made", "model": {"source": "a/model"}, "search": {"max_epochs": 9}}
        self.config = SearchConfig.model_validate({**raw, "mixture": {"sub_datasets": parts}, **settings})
        directory.mkdir(parents=True, exist_ok=True)
        first = started(
            names,
            search_id="0badcafe",
            config=self.config.model_dump(mode="json"),
            content={f"{name}/train": "5ha" * 20 for name in names},
            environment={"python": "3.11.7", "versions": {"torch": "2.13.0"}},
        )
        append_event(str(directory), first)

    def decide(
        self,
        scores: Mapping[str, Sequence[float]],
        *,
        target: int | None = None,
        shares: Mapping[str, float] | None = None,
        stop_reason: str = "",
        **decision: Any,
    ) -> MadeSearch:
        """Put one round on record: the scores at its start and at each own checkpoint, and what was decided.

        Args:
            target: how many intervals of the roll-out are accepted; None: all.
            shares: of the mixture; None: equal ones of the active, {}: no mixture is on record.
            decision: exclude, include, weights, reason.
        """
        state = read_history(str(self.directory)).state
        start = state.checkpoint or CheckpointKey(0, 0)
        num_own = len(next(iter(scores.values()))) - 1
        own = [CheckpointKey(state.round, start.step + 10 * n) for n in range(1, num_own + 1)]
        keys = [start, *own]
        curves = [curve(n, keys, scores[n], self.num_validation_rows, self.rows) for n in self.names]
        goal = keys[num_own if target is None else target]
        shares = {name: 1 / len(state.active) for name in state.active} if shares is None else shares
        event = decided(
            state.round,
            (goal.round, goal.step),
            self.names,
            active=state.active,
            scores_at_target={curve.sub_dataset: curve.at(goal).score for curve in curves},
            curves=tuple(curves),
            champion=choose_champion(state.champion, mean_scores(curves)),
            examples=100 * num_own,
            intervals=tuple(interval(key) for key in own),
            evaluation=EvaluationCost(num_tokens=500, num_examples=50, flops=1e9, seconds=1.0),
            stop_reason=stop_reason,
            mixture=mixture(state.round, shares, ROWS * len(self.names), ROWS) if shares else None,
            **{name: tuple(value) if isinstance(value, list) else value for name, value in decision.items()},
        )
        append_event(str(self.directory), event)
        return self

    def crown(self, test_accuracy: float | None = 0.5, soup: Soup | None = None) -> MadeSearch:
        """Put the champion on record, with the same test score everywhere; None: no test splits."""
        champion = read_history(str(self.directory)).state.champion
        assert champion is not None
        scores = [
            SubDatasetScore(sub_dataset=name, accuracy=test_accuracy, loss=1.25, num_examples=321, correct="")
            for name in self.names
        ]
        tested = {} if test_accuracy is not None else {"test": None}
        event = crowned(champion.checkpoint, scores, **tested)
        append_event(str(self.directory), event.model_copy(update={"soup": soup}))
        return self

    def events(self) -> list[Event]:
        """Return what is on record."""
        return read_events(str(self.directory))

    def rewrite(self, events: Sequence[Event]) -> None:
        """Put these events on record in place of what is."""
        (self.directory / JOURNAL).unlink()
        for event in events:
            append_event(str(self.directory), event)
