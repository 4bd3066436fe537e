"""Names and addresses that the pages of MLflow and Prefect share."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from tasks.contracts import SearchRef
from tasks.redaction import without_password

_LOCAL_PAGES = "http://127.0.0.1:5000"  # the default of `mlflow ui`
_NUM_NAMED = 4


def search_title(name: str, search_id: str) -> str:
    """Return the title of a search, the name of its directory."""
    return f"{name}-{search_id}"


def round_title(search: SearchRef, round_index: int, active: Sequence[str]) -> str:
    """Return the title of a round, `search-0a1b2c3d / round-3 [gsm8k, boolq]`; a long mixture is cut."""
    named = list(active) if len(active) <= _NUM_NAMED else [*active[: _NUM_NAMED - 1], "…"]
    count = "" if len(active) <= _NUM_NAMED else f" {len(active)} of"
    return f"{search_title(search.name, search.search_id)} / round-{round_index}{count} [{', '.join(named)}]"


def mlflow_command(search: SearchRef) -> str:
    """Return the command that shows the search's local store; empty for a server."""
    if search.tracking_uri.startswith("http"):
        return ""
    return f"mlflow ui --backend-store-uri {without_password(search.tracking_uri)}"


def mlflow_address(search: SearchRef) -> str:
    """Return the address of the search's run on MLflow's pages, in the layout for training."""
    base = _LOCAL_PAGES
    if search.tracking_uri.startswith("http"):
        parts = urlsplit(search.tracking_uri)
        base = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
    return f"{base}/#/experiments/{search.experiment_id}/runs/{search.run_id}?workflowType=machine_learning"
