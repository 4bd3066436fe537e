"""A search's directory made up by hand: curves and decisions as told, in the form that a search leaves them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.algorithm.curves import Curve, MetricPoint, choose_champion, mean_scores
from tasks.algorithm.state import CheckpointKey
from tasks.config.schema import SearchConfig
from tasks.record.journal import append_event, read_events, read_state

ROWS = 100  # train rows of each sub-dataset


class MadeSearch:
    """Writes the journal and the roll-outs' specifications of a search, round by round.

    Every interval is 10 steps and 100 rows, so that with N sub-datasets it is 1/N of a full-mixture epoch.
    """

    def __init__(
        self, directory: Path, names: Sequence[str], num_validation_rows: int = 400, **settings: Any
    ) -> None:
        self.directory = directory
        self.names = tuple(names)
        self.num_validation_rows = num_validation_rows
        parts = [{"name": name, "path": f"data/{name}"} for name in names]
        raw: dict[str, Any] = {"name": "made", "model": {"source": "a/model"}, "search": {"max_epochs": 9}}
        self.config = SearchConfig.model_validate({**raw, "mixture": {"sub_datasets": parts}, **settings})
        started: dict[str, Any] = {
            "event": "search_started",
            "search_id": "0badcafe",
            "sub_datasets": list(names),
            "config": self.config.model_dump(mode="json"),
            "content": {f"{name}/train": "5ha" * 20 for name in names},
            "environment": {"python": "3.11.7", "versions": {"torch": "2.13.0"}},
            "world": {},
        }
        directory.mkdir(parents=True, exist_ok=True)
        append_event(str(directory), started)

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
            shares: of the mixture, for its specification; None: equal ones of the active, {}: no specification.
            decision: exclude, include, weights, reason.
        """
        state = read_state(str(self.directory))
        start = state.checkpoint or CheckpointKey(0, 0)
        num_own = len(next(iter(scores.values()))) - 1
        own = [CheckpointKey(state.round, start.step + 10 * n) for n in range(1, num_own + 1)]
        keys = [start, *own]
        curves = [self._curve(name, keys, scores[name]) for name in self.names]
        goal = keys[num_own if target is None else target]
        chosen = {"exclude": [], "include": [], "weights": None, "optimizer": "restore"}
        chosen |= {"stop": "", "rollout_epochs": None}
        chosen |= {"roll_back_to": asdict(goal), "reason": "as told", "verdicts": []} | decision
        self._specify(state.round, state.active, shares)
        event = {
            "event": "round_decided",
            "round": state.round,
            "rule": "guarded",
            "sub_datasets": list(self.names),
            "active": list(state.active),
            "decision": chosen,
            "scores_at_target": {curve.sub_dataset: curve.at(goal).score for curve in curves},
            "curves": [asdict(curve) for curve in curves],
            "champion": asdict(choose_champion(state.champion, mean_scores(curves))),
            "examples": 100 * num_own,
            "intervals": [self._interval(key) for key in own],
            "evaluation": {"num_tokens": 500, "num_examples": 50, "flops": 1e9, "seconds": 1.0},
            "stop_reason": stop_reason,
        }
        append_event(str(self.directory), event)
        return self

    def crown(self, test_accuracy: float | None = 0.5) -> MadeSearch:
        """Put the champion on record, with the same test score everywhere; None: no test splits."""
        champion = read_state(str(self.directory)).champion
        assert champion is not None
        key = asdict(champion.checkpoint)
        scores = {
            "key": key,
            "sha256": "",
            "scores": [
                {
                    "sub_dataset": name,
                    "accuracy": test_accuracy,
                    "loss": 1.25,
                    "num_examples": 321,
                    "correct": "",
                }
                for name in self.names
            ],
            "cost": {},
        }
        crowned = {
            "key": key,
            "directory": "champion",
            "model_version": "1",
            "validation": {**scores, "scores": []},
            "test": None if test_accuracy is None else scores,
        }
        append_event(str(self.directory), {"event": "champion_crowned", "champion": crowned})
        return self

    def events(self) -> list[dict[str, Any]]:
        """Return what is on record."""
        return read_events(str(self.directory))

    def _curve(self, name: str, keys: Sequence[CheckpointKey], scores: Sequence[float]) -> Curve:
        points = [
            MetricPoint(key, score, abs(score), self.num_validation_rows)
            for key, score in zip(keys, scores, strict=True)
        ]
        return Curve(name, tuple(points))

    def _interval(self, key: CheckpointKey) -> dict[str, Any]:
        costs = {"num_tokens": 1000, "num_completion_tokens": 500, "num_examples": 100}
        rest = {"learning_rate": 1e-5, "losses": {}, "batch_hash": ""}
        return {"key": asdict(key), **costs, "flops": 1e9, "seconds": 2.0, **rest}

    def _specify(self, index: int, active: Sequence[str], shares: Mapping[str, float] | None) -> None:
        if shares == {}:
            return
        directory = self.directory / "rounds" / f"{index:03d}"
        directory.mkdir(parents=True)
        train = {"num_rows": ROWS, "num_tokens": 1000, "sha256": "5ha" * 20}
        mixture = {
            "draws": [{"name": name, "train": train} for name in active],
            "full_epoch_rows": ROWS * len(self.names),
            "example_shares": shares or {name: 1 / len(active) for name in active},
            "epochs": 2.0,
        }
        (directory / "rollout_spec.json").write_text(json.dumps({"mixture": mixture}))
