"""Compute the outputs of the frozen layers once, before the first roll-out that reads them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from tasks.config.schema import SearchConfig
from tasks.contracts import Inputs, SearchRun, SplitRef
from tasks.data.hidden_cache import TRAIN, HiddenStatesSpec, states_folder
from tasks.evaluation import split_to_score
from tasks.planning.hidden_cache import hidden_states_bytes, hidden_states_folder
from tasks.record.ownership import own_cache
from tasks.report import words
from tasks.runtime.files import write_file
from tasks.runtime.launch import run_module
from tasks.runtime.spans import span
from tasks.stage import stage

logger = logging.getLogger(__name__)


@stage("compute frozen layers")
@span("frozen layers")
def compute_frozen_layers(search: SearchRun, relabelled: Mapping[str, SplitRef | None]) -> None:
    """Let a worker compute the hidden states that no search has kept in the cache of `output_root`.

    Args:
        relabelled: further rows that are trained, by sub-dataset.

    Raises:
        WorkerError: the model cannot be cut, or the disk is full.
    """
    folder = hidden_states_folder(search.config, search.inputs)
    size = words.size(hidden_states_bytes(search.config, search.inputs))
    if folder is None:
        logger.info(f"outputs of the frozen layers, {size}: computed in every pass; training.hidden_cache_gb is below")
        return
    spec = hidden_states_spec(search.config, search.inputs, folder)
    spec = spec.model_copy(update={"trained": (*spec.trained, *(one for one in relabelled.values() if one))})
    with own_cache(search.config):
        if all(path.exists() for path in _folders(spec)):
            return
        logger.info(f"outputs of the frozen layers, {size}: computed once, into {folder}")
        path = Path(folder).with_name(f"{Path(folder).name}_spec.json")
        write_file(path, spec.model_dump_json(indent=1))
        run_module(
            "tasks.workers.hidden_states",
            path,
            name="frozen layers",
            threads=spec.threads,
            progress=lambda: sum(path.exists() for path in _folders(spec)),
        )


def hidden_states_spec(config: SearchConfig, inputs: Inputs, folder: str) -> HiddenStatesSpec:
    """Return the specification of the worker that computes them."""
    return HiddenStatesSpec(
        model=inputs.model,
        trained=tuple(part.train for part in inputs.sub_datasets),
        scored=tuple(split_to_score(part, part.validation) for part in inputs.sub_datasets),
        batch_tokens=config.evaluation.batch_tokens,
        threads=config.training.threads,
        device=config.training.device,
        precision=config.training.precision,
        directory=folder,
    )


def _folders(spec: HiddenStatesSpec) -> list[Path]:
    trained = [states_folder(spec.directory, split, TRAIN) for split in spec.trained]
    return trained + [states_folder(spec.directory, part.split, part.metric) for part in spec.scored]
