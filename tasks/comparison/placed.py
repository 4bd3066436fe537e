"""The searches of a comparison as runs of a Prefect deployment, on whichever machines of its pool are free.

All machines share the storage of `output_root`. Whether a search is done is read from its journal: a flow run whose
machine was lost, or whose server failed, is revived after its state was final. A comparison that starts again adopts
the runs of the one before, which it finds by their tags.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.exceptions import ObjectNotFound

from tasks.commands.deploy import LOST_AFTER_S
from tasks.comparison.parallel import Outcome, Part, failed
from tasks.config.identity import dump_config, search_id_of
from tasks.errors import DeploymentError, JournalError
from tasks.record.events import champion_of
from tasks.record.journal import read_events
from tasks.record.ownership import directory_of, owner_of
from tasks.record.status import status_of
from tasks.runtime.files import write_file
from tasks.runtime.prefect_server import is_outage

logger = logging.getLogger(__name__)

_POLL_S = 5.0
# The automation of lost runs takes LOST_AFTER_S to revive one; the rest is for a slow server.
_REVIVED_WITHIN_S = LOST_AFTER_S + 60.0


@dataclass
class _Placed:
    part: Part
    run: UUID
    told: str = ""
    final_since: float | None = None

    def tell(self, state: str) -> None:
        """Log the state of its run and the search's round, if they have changed."""
        status = status_of(str(directory_of(self.part.arm.config)))
        told = f"{state}, round {status.round}" if status.last_event is not None else state
        if told != self.told:
            self.told = told
            logger.info(f"{self.part.arm.label}: {told}")


def run_on_deployment(parts: Sequence[Part], deployment: str, at_once: int | None, folder: Path) -> list[Outcome]:
    """Place all searches and wait for their ends; an outage of Prefect's server is waited for.

    A search that fails does not stop the others. What interrupts this leaves the searches running.

    Args:
        deployment: a deployment of the flow `msft-search-file`, by its name.
        at_once: searches that are placed at the same time; None: all.
        folder: for the configuration of each search.
    Raises:
        DeploymentError: the server has no such deployment.
    """
    with get_client(sync_client=True) as client:
        placing = _Placing(client, deployment, at_once, folder)
        placing.waiting.extend(parts)
        while placing.waiting or placing.placed:
            placing.step_or_wait()
            if placing.waiting or placing.placed:
                time.sleep(_POLL_S)
        return placing.outcomes


class _Placing:
    def __init__(self, client: SyncPrefectClient, deployment: str, at_once: int | None, folder: Path) -> None:
        self._client, self._at_once, self._folder = client, at_once, folder
        name = deployment if "/" in deployment else f"msft-search-file/{deployment}"
        try:
            self._deployment = client.read_deployment_by_name(name).id
        except ObjectNotFound:
            fix = f"register it with msft deploy {name.partition('/')[2]}"
            raise DeploymentError(f"deployment {name!r}", got="none", expected="one of the server", fix=fix) from None
        self.waiting: list[Part] = []
        self.placed: list[_Placed] = []
        self.outcomes: list[Outcome] = []
        self._is_away = False  # the server

    def step_or_wait(self) -> None:
        """Step; an outage of the server is told once, and the next step tries again."""
        try:
            self._step()
            self._is_away = False
        except Exception as error:
            if not is_outage(error):
                raise
            if not self._is_away:
                logger.warning(f"Prefect server: {error}; searches that run go on, and this when it answers")
            self._is_away = True

    def _step(self) -> None:
        """Place what may be placed, and take the outcomes of the searches that have ended."""
        while self.waiting and (self._at_once is None or len(self.placed) < self._at_once):
            self.placed.append(self._place(self.waiting[0]))
            del self.waiting[0]
        for one in list(self.placed):
            outcome = self._outcome_of(one)
            if outcome is not None:
                self.placed.remove(one)
                self.outcomes.append(outcome)

    def _place(self, part: Part) -> _Placed:
        root = str(Path(part.arm.config.output_root).resolve())
        config = part.arm.config.model_copy(update={"output_root": root})
        tags = [f"msft-arm:{search_id_of(config)}", f"msft-root:{root}"]
        known = self._client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=tags)))
        living = [run for run in known if run.state is None or not run.state.is_final()]
        if living:
            logger.info(f"{part.arm.label}: flow run {living[-1].name} goes on")
            return _Placed(part, living[-1].id)
        path = self._folder / f"{directory_of(config).name}.yaml"
        write_file(path, dump_config(config))
        parameters = {"config": str(path.resolve()), "overrides": [], "parent_run_id": part.parent_run_id}
        run = self._client.create_flow_run_from_deployment(self._deployment, parameters=parameters, tags=tags)
        logger.info(f"{part.arm.label}: placed as flow run {run.name}")
        return _Placed(part, run.id)

    def _outcome_of(self, one: _Placed) -> Outcome | None:
        arm, directory = one.part.arm, str(directory_of(one.part.arm.config))
        try:
            if champion_of(read_events(directory)) is not None and owner_of(directory) is None:
                logger.info(f"{arm.label}: done")
                return Outcome(arm=arm)
        except JournalError as error:
            return failed(arm, str(error))
        try:
            state = self._client.read_flow_run(one.run).state
        except ObjectNotFound:
            return failed(arm, f"its flow run {one.run} was deleted")
        if state is None or not state.is_final():
            one.final_since = None
            one.tell(state.name or "" if state is not None else "")
            return None
        one.final_since = one.final_since or time.monotonic()
        if time.monotonic() - one.final_since < _REVIVED_WITHIN_S or owner_of(directory) is not None:
            return None
        told = f"its flow run {one.run} ended as {state.name} ({state.message}), and its journal has no champion"
        return failed(arm, told)
