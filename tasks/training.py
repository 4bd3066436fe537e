"""Train one roll-out in a process of its own, and register its checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from tasks.algorithm.state import SearchState
from tasks.config.schema import SearchConfig, TrainingConfig
from tasks.contracts import (
    CheckpointRef,
    Mixture,
    RegisteredCheckpoint,
    RolloutResult,
    RolloutSpec,
    SearchRef,
    SearchRun,
)
from tasks.errors import CheckpointDamagedError
from tasks.evaluation import scoring_beside
from tasks.planning.hidden_cache import hidden_states_flops, hidden_states_folder
from tasks.record.paths import JOURNAL, ROLLOUT_RESULT, ROLLOUT_SPEC, published_checkpoints, round_directory
from tasks.record.rollout import read_progress, set_aside, verify
from tasks.registry.live import live_pages, record_rollout
from tasks.report import messages
from tasks.runtime.files import write_file
from tasks.runtime.group import Group
from tasks.runtime.launch import run_accelerate, start_pool
from tasks.runtime.machine import numerical_environment
from tasks.stage import stage

logger = logging.getLogger(__name__)


def group_of(config: SearchConfig, directory: str) -> Group | None:
    """Return the machines that a search trains on, led by this one; None for one machine."""
    if config.training.machines == 1:
        return None
    return Group(directory, with_local_paths(config), numerical_environment(config))


def start_workers(config: SearchConfig, directory: str) -> None:
    """Start the workers of a search that begins; they import torch while its data is prepared.

    A search that goes on finds its data prepared, and may need none of them.
    """
    if not Path(directory, JOURNAL).exists():
        start_pool(with_local_paths(config))


@stage("train roll-out", run_name="train round {state.round}")
def train_rollout(
    search: SearchRun, mixture: Mixture, state: SearchState, start: CheckpointRef | None
) -> RolloutResult:
    """Return the result of the roll-out; one that has ended before is not run again.

    The worker itself goes on from the newest whole checkpoint in the round's directory.

    Raises:
        WorkerError: the worker failed.
    """
    directory = round_directory(search.ref.directory, state.round)
    result_path, spec_path = directory / ROLLOUT_RESULT, directory / ROLLOUT_SPEC
    if not is_done(search.ref, result_path, goes_back=search.config.search.goes_back):
        spec = _spec(search, mixture, state, start)
        write_file(spec_path, spec.model_dump_json(indent=1))
        _run(search, spec, spec_path)
    return RolloutResult.model_validate_json(result_path.read_text())


def _spec(search: SearchRun, mixture: Mixture, state: SearchState, start: CheckpointRef | None) -> RolloutSpec:
    config = search.config
    return RolloutSpec(
        search_id=search.ref.search_id,
        seed=config.seed,
        method=config.search.method,
        options=config.search.options.model_dump(),
        mixture=mixture,
        model=search.inputs.model,
        training=with_local_paths(config),
        start=start,
        start_directory=str(Path(search.ref.directory, start.directory)) if start is not None else None,
        first_step=start.key.step if start is not None else 0,
        optimizer="reset" if state.optimizer == "reset" else "restore",
        decay_steps=round(config.search.max_epochs * mixture.full_epoch_rows / config.training.batch_size),
        output_directory=str(round_directory(search.ref.directory, state.round)),
        hidden_states=hidden_states_folder(config, search.inputs),
        hidden_states_flops=hidden_states_flops(config, search.inputs) if state.round == 0 else 0.0,
    )


def _run(search: SearchRun, spec: RolloutSpec, spec_path: Path) -> None:
    with (
        scoring_beside(search, spec.mixture, spec.first_step) as show_scores,
        messages.rollout_progress(spec.mixture) as show,
        live_pages(search.ref, spec) as pages,
    ):
        show_progress = _progress_reader(Path(spec.output_directory), (show, pages.show_progress))

        def poll() -> None:
            for one in (show_progress, show_scores, pages.poll):
                one()

        run_accelerate(
            "tasks.workers.train",
            spec_path,
            name=f"roll-out of round {spec.mixture.round}",
            training=spec.training,
            on_poll=poll,
            progress=lambda: len(published_checkpoints(Path(spec.output_directory))),
        )


def is_done(search: SearchRef, result_path: Path, *, goes_back: bool = True) -> bool:
    """Return whether the roll-out has ended and all its checkpoints are whole; a damaged one is set aside.

    If the method never goes back, only the last one has the state that training continues from.
    """
    if not result_path.is_file():
        return False
    result = RolloutResult.model_validate_json(result_path.read_text())
    directories = [Path(search.directory, checkpoint.directory) for checkpoint in result.checkpoints]
    for directory in directories:
        try:
            verify(directory, with_state=goes_back or directory == directories[-1])
        except CheckpointDamagedError as error:
            logger.warning(f"{error}\nit is trained again")
            set_aside(directory)
            result_path.unlink(missing_ok=True)
    return result_path.is_file()


def with_local_paths(config: SearchConfig) -> TrainingConfig:
    """Return the settings of a search's training, with paths that do not depend on its YAML file's place."""
    training = config.training
    if training.accelerate_config is None:
        return training
    return training.model_copy(update={"accelerate_config": str(config.resolve(training.accelerate_config))})


def _progress_reader(directory: Path, shows: Sequence[Callable[[messages.Progress], None]]) -> Callable[[], None]:
    """Return a function that shows the worker's newest progress if it has changed."""
    seen = [read_progress(directory)]  # of a worker before this one

    def poll() -> None:
        line = read_progress(directory)
        if line is not None and line != seen[0]:
            seen[0] = line
            progress = messages.Progress(**{field.name: line[field.name] for field in fields(messages.Progress)})
            for show in shows:
                show(progress)

    return poll


@stage("register checkpoints", run_name="register checkpoints of round {mixture.round}")
def register_checkpoints(
    search: SearchRef, mixture: Mixture, rollout: RolloutResult
) -> tuple[RegisteredCheckpoint, ...]:
    """Register in MLflow the checkpoints that were not registered while the roll-out ran; return all of them.

    Those that a search scored before it was interrupted come with their scores.
    """
    return record_rollout(search, mixture, rollout.checkpoints, rollout.intervals)
