"""Follow a search on a further machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.config.loading import load_config
from tasks.config.schema import SearchConfig, TrainingConfig
from tasks.config.shipped import config_path
from tasks.errors import ConfigError
from tasks.record.events import champion_of
from tasks.record.journal import read_events
from tasks.record.ownership import directory_of, own_gpus
from tasks.record.status import find_search, resumed_config
from tasks.runtime.following import follow
from tasks.runtime.machine import numerical_environment


def follow_search(search: str, rank: int, overrides: Sequence[str], output_root: str) -> None:
    """Train as machine number `rank` of a search until it is finished.

    Args:
        search: its YAML file, with the same `overrides` as the search has; or its directory or name, once it has begun.
        rank: from 1 on; 0 is the machine of the search itself.
        output_root: folder of the searches, for a name.
    Raises:
        ConfigError: the search trains on one machine, or on fewer than `rank` asks for.
        BusyError: another process has this rank, or the GPUs.
        MachinesError: no search comes, or it does not go on.
    """
    config = _config_of(search, overrides, output_root)
    machines = config.training.machines
    if not 0 < rank < machines:
        fix = "0 is where `msft search` runs" if machines > 1 else "set training.machines"
        expected = f"1 to {machines - 1}" if machines > 1 else "a search with training.machines of at least 2"
        raise ConfigError("--rank", [f"got {rank}; expected {expected}: {fix}"])
    directory = str(directory_of(config))

    def environment_of(training: TrainingConfig) -> Mapping[str, Any]:
        return numerical_environment(config.model_copy(update={"training": training}))

    def is_finished() -> bool:
        return champion_of(read_events(directory)) is not None

    with own_gpus(config):
        follow(directory, rank, config.training, environment_of, is_finished)


def _config_of(search: str, overrides: Sequence[str], output_root: str) -> SearchConfig:
    if Path(config_path(search)).is_file():
        return load_config(search, overrides)
    return resumed_config(find_search(output_root, search), overrides)
