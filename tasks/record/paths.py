"""Names of a search: the paths of its directory, titles and addresses; no other module spells them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from tasks.algorithm.state import CheckpointKey
from tasks.contracts import SearchRef
from tasks.redaction import without_password

JOURNAL = "journal.jsonl"
CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
PLAN = "plan.json"
CHAMPION = "champion"
SOUP = "soup"  # for an average of checkpoints
SOUP_AVERAGE = "average"  # in that folder, as is the next
SOUP_RESULT = "soup.json"
REPORT = "report"
ROUNDS = "rounds"
SCORES = "scores"
ANSWERS = "answers.json"
SUSPECTS = "suspects.json"
RELABELLED = "relabelled"  # rows with the answers of a checkpoint
BASE = CheckpointKey(0, 0)  # of the base model, before any step
ROLLOUT_SPEC = "rollout_spec.json"
ROLLOUT_RESULT = "rollout_result.json"
PASS_TOKENS = "pass_tokens.json"
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


RUNS_VIEW = "msft"  # the key of the saved view of MLflow's list of runs
_LOCAL_PAGES = "http://127.0.0.1:5000"  # the default of `mlflow ui`
# MLflow 3.17 chooses the layout by this, or by the browser's last one, and not by the experiment's kind.
_TRAINING_LAYOUT = "workflowType=machine_learning"
_NUM_NAMED = 4
_LONGEST_TITLE = 250  # of a run, where MLflow keeps it in a database that checks


def search_title(name: str, search_id: str) -> str:
    """Return the title of a search, the name of its directory."""
    return f"{name}-{search_id}"


def round_title(search: SearchRef, round_index: int, active: Sequence[str]) -> str:
    """Return the title of a round, `search-0a1b2c3d / round-3 [gsm8k, boolq]`; a long mixture is cut."""
    named = list(active) if len(active) <= _NUM_NAMED else [*active[: _NUM_NAMED - 1], "…"]
    count = "" if len(active) <= _NUM_NAMED else f" {len(active)} of"
    title = f"{search_title(search.name, search.search_id)} / round-{round_index}{count} [{', '.join(named)}]"
    return title if len(title) <= _LONGEST_TITLE else f"{title[: _LONGEST_TITLE - 2]}…]"


def mlflow_command(search: SearchRef) -> str:
    """Return the command that shows the search's local store; empty for a server."""
    if search.tracking_uri.startswith("http"):
        return ""
    return f"mlflow ui --backend-store-uri {without_password(search.tracking_uri)}"


def mlflow_address(search: SearchRef) -> str:
    """Return the address of the search's run on MLflow's pages."""
    return f"{_experiment_address(search)}/runs/{search.run_id}?{_TRAINING_LAYOUT}"


def mlflow_runs_address(search: SearchRef) -> str:
    """Return the address of MLflow's list of runs with the columns of a search."""
    return f"{_experiment_address(search)}/runs?{_TRAINING_LAYOUT}&viewStateShareKey={RUNS_VIEW}"


def _experiment_address(search: SearchRef) -> str:
    base = _LOCAL_PAGES
    if search.tracking_uri.startswith("http"):
        parts = urlsplit(search.tracking_uri)
        base = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
    return f"{base}/#/experiments/{search.experiment_id}"
