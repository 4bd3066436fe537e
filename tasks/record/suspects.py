"""Suspect rows: train rows that the checkpoint at their sub-dataset's peak answers otherwise than labelled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tasks.algorithm.state import CheckpointKey
from tasks.contracts import EvaluationCost, Value
from tasks.record.paths import ROUNDS, SUSPECTS


class Suspect(Value):
    """One train row.

    Attributes:
        row: its index among the sub-dataset's usable train rows.
        where: file and line, or split and row, in the source; empty for a generated row.
        loss: mean per completion token of the label, in nats.
    """

    row: int
    where: str
    label: str
    answer: str
    loss: float


class Suspects(Value):
    """The suspect rows of one sub-dataset, largest loss first, among `num_rows` that were answered at `key`."""

    sub_dataset: str
    key: CheckpointKey
    num_rows: int
    rows: tuple[Suspect, ...]


class RoundSuspects(Value):
    """The suspect rows of the sub-datasets that reached a new peak in a round, and what answering the rows cost."""

    found: tuple[Suspects, ...]
    cost: EvaluationCost


def read_suspects(search_directory: str) -> Mapping[str, Suspects]:
    """Return the suspect rows at the best peak so far of each sub-dataset; empty where none were looked for."""
    paths = sorted(Path(search_directory, ROUNDS).glob(f"*/{SUSPECTS}"))
    rounds = [RoundSuspects.model_validate_json(path.read_text()) for path in paths]
    return {one.sub_dataset: one for told in rounds for one in told.found}
