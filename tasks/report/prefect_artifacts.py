"""Prefect's pages of a search: readable run names, progress, tables and links."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlsplit
from uuid import UUID

import httpx
from prefect import artifacts, settings
from prefect.context import TaskRunContext
from prefect.exceptions import PrefectException
from prefect.logging.handlers import APILogHandler
from prefect.runtime import flow_run
from prefect.utilities.urls import url_for

from tasks.config.identity import search_id_of
from tasks.config.loading import load_config
from tasks.contracts import SearchRef
from tasks.errors import MsftError
from tasks.record.paths import mlflow_address, mlflow_command, round_title, search_title
from tasks.record.view import SearchView
from tasks.report.markdown import round_rows, tell_round, tell_search
from tasks.report.terminal import LOGGERS
from tasks.runtime.prefect_server import LOCAL_PAGES

logger = logging.getLogger(__name__)


def search_run_name() -> str:
    """Return the name of a search's flow run: that of its directory, or the file where that cannot be read."""
    parameters = flow_run.parameters
    config = parameters["config"]
    if isinstance(config, str):
        try:
            config = load_config(config, parameters.get("overrides", ()))
        except MsftError:  # the flow itself tells what is wrong with it
            return f"search of {config}"
    return search_title(config.name, search_id_of(config))


def round_run_name() -> str:
    """Return the name of a round's flow run, with what it trains on."""
    state = flow_run.parameters["history"].state
    return round_title(flow_run.parameters["search"].ref, state.round, state.active)


def log_to_run_page() -> None:
    """Send what the stages log to the page of the flow run, as PREFECT_LOGGING_EXTRA_LOGGERS=tasks,flows would.

    Prefect leaves the level of such loggers at WARNING.
    """
    for name in LOGGERS:
        stages = logging.getLogger(name)
        stages.setLevel(logging.INFO)
        if not any(isinstance(handler, APILogHandler) for handler in stages.handlers):
            stages.addHandler(APILogHandler())


def show_link(search: SearchRef) -> None:
    """Link the search's run in MLflow."""
    command = mlflow_command(search)
    text = f"Curves, checkpoints and the champion{f', while this runs: `{command}`' if command else ''}"
    address, key = mlflow_address(search), _key(search, "mlflow")
    _show(lambda: artifacts.create_link_artifact(address, "The search in MLflow", key=key, description=text))


def show_round(search: SearchRef, view: SearchView) -> None:
    """Show the newest decision in words, and the table of all rounds."""
    _show_text(_key(search, "decision"), tell_round(view, view.history.rounds[-1]), "The newest decision")
    rows = round_rows(view)
    _show(lambda: artifacts.create_table_artifact(rows, key=_key(search, "rounds"), description="All rounds so far"))


def show_end(search: SearchRef, view: SearchView) -> None:
    """Show how the search ended: exclusions with reasons, cost, and the champion's scores."""
    _show_text(_key(search, "summary"), tell_search(view), "Exclusions, cost and the champion's scores")


def show_page(comparison: SearchRef, page: str) -> None:
    """Show the page of a comparison."""
    _show_text(_key(comparison, "comparison"), page, "The methods compared, with their intervals")


def _show_text(key: str, text: str, description: str) -> None:
    _show(lambda: artifacts.create_markdown_artifact(text, key=key, description=description))


class ProgressBar:
    """A roll-out's progress on its task's page; once the server does not answer, it stands still."""

    def __init__(self, search: SearchRef, round_index: int) -> None:
        self._key = _key(search, f"round-{round_index}")
        self._id: UUID | None = None
        self._is_lost = False

    def show(self, percent: float, description: str) -> None:
        """Set the bar."""
        if not self._is_lost:
            self._is_lost = not _show(lambda: self._set(percent, description))

    def _set(self, percent: float, description: str) -> None:
        if self._id is None:
            # A coroutine only where an event loop runs.
            self._id = cast(UUID, artifacts.create_progress_artifact(percent, key=self._key, description=description))
        else:
            artifacts.update_progress_artifact(self._id, percent, description=description)


def page_of_this_run() -> str:
    """Return where Prefect shows the flow run that this is called in, with the command that such a page needs first."""
    address = url_for("flow-run", flow_run.id) or LOCAL_PAGES
    api, pages = settings.PREFECT_API_URL.value() or "", settings.PREFECT_UI_URL.value() or ""
    is_own_server = pages == LOCAL_PAGES and urlsplit(api).netloc != urlsplit(pages).netloc
    home = shlex.quote(str(settings.PREFECT_HOME.value()))
    return f"PREFECT_HOME={home} prefect server start, then {address}" if is_own_server else address


def _key(search: SearchRef, name: str) -> str:
    return f"msft-{search.search_id}-{name}"


def _show(create: Callable[[], Any]) -> bool:
    """Return whether the artifact was created; an unreachable server neither ends nor delays the task."""
    if TaskRunContext.get() is None:
        return False
    try:
        with settings.temporary_settings({settings.PREFECT_CLIENT_MAX_RETRIES: 0}):
            create()
    except (httpx.HTTPError, PrefectException) as error:
        logger.info(f"Prefect's pages lack an artifact: {error}")
        return False
    return True
