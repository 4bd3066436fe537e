"""Paths of a search's directory; no other module spells them."""

from __future__ import annotations

from pathlib import Path

from tasks.algorithm.state import CheckpointKey

JOURNAL = "journal.jsonl"
CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
PLAN = "plan.json"
CHAMPION = "champion"
REPORT = "report"
ROUNDS = "rounds"
SCORES = "scores"
ROLLOUT_SPEC = "rollout_spec.json"
ROLLOUT_RESULT = "rollout_result.json"
_STEP = "step-"


def round_directory(search_directory: str | Path, index: int) -> Path:
    """Return the directory of a round, which is the output of its roll-out."""
    return Path(search_directory, ROUNDS, f"{index:03d}")


def round_directories(search_directory: str | Path) -> list[Path]:
    """Return the directories of all rounds that have begun, in their order."""
    return sorted(Path(search_directory, ROUNDS).iterdir())


def checkpoint_directory(round_directory: Path, step: int) -> Path:
    """Return the directory in which a roll-out publishes the checkpoint of `step`."""
    return round_directory / "checkpoints" / f"{_STEP}{step:08d}"


def published_checkpoints(round_directory: Path) -> list[Path]:
    """Return the directories of a roll-out's published checkpoints, in the order of their steps."""
    return sorted((round_directory / "checkpoints").glob(f"{_STEP}*"))


def checkpoints_and_remains(round_directory: Path) -> list[Path]:
    """Return the directories of published checkpoints and of those that were interrupted or set aside."""
    return sorted((round_directory / "checkpoints").glob(f"*{_STEP}*"))


def step_of(checkpoint_directory: Path) -> int:
    """Return the step of a published checkpoint from the name of its directory."""
    return int(checkpoint_directory.name.removeprefix(_STEP))


def score_file_of(key: CheckpointKey) -> str:
    """Return the name of the file in `scores` that holds a checkpoint's scores."""
    return f"round-{key.round:03d}-step-{key.step:08d}.json"
