"""The outputs of frozen layers: whether they are kept, where, and what they take."""

from __future__ import annotations

from functools import reduce
from operator import add
from pathlib import Path

from tasks.algorithm.costs import RowCost
from tasks.config.schema import SearchConfig
from tasks.contracts import Inputs, SplitRef
from tasks.data.hidden_cache import cache_folder
from tasks.data.model_size import measure_model
from tasks.planning.row_costs import NOTHING, scoring_cost, training_cost
from tasks.runtime.machine import device_of, num_threads

_BYTES = {"fp32": 4, "bf16": 2}


def hidden_states_cost(inputs: Inputs) -> RowCost:
    """Return the work of computing them once: all train rows, and all validation rows as they are scored."""
    costs = [training_cost(part.train) for part in inputs.sub_datasets]
    costs += [scoring_cost(part.validation, part.metric, 0).least for part in inputs.sub_datasets]
    return reduce(add, costs, NOTHING)


def hidden_states_bytes(config: SearchConfig, inputs: Inputs) -> int:
    """Return about what they take on the disk; 0 where no layer is frozen."""
    if inputs.model.trainable_layers is None:
        return 0
    width = measure_model(inputs.model).hidden_width
    return int(hidden_states_cost(inputs).num_tokens * width * _BYTES[config.training.precision])


def keeps_hidden_states(config: SearchConfig, inputs: Inputs) -> bool:
    """Return whether the outputs of frozen layers are kept: there are frozen layers, and the limit allows it."""
    size = hidden_states_bytes(config, inputs)
    return 0 < size <= config.training.hidden_cache_gb * 1e9


def hidden_states_flops(config: SearchConfig, inputs: Inputs) -> float:
    """Return the FLOPs of computing them once; 0 where they are not kept."""
    if not keeps_hidden_states(config, inputs):
        return 0.0
    return hidden_states_cost(inputs).forward_flops(measure_model(inputs.model).shape.frozen)


def added_flops(config: SearchConfig, inputs: Inputs, split: SplitRef) -> float:
    """Return the FLOPs of computing them for the rows of one more train split; 0 where they are not kept."""
    if not keeps_hidden_states(config, inputs):
        return 0.0
    return training_cost(split).forward_flops(measure_model(inputs.model).shape.frozen)


def hidden_states_folder(config: SearchConfig, inputs: Inputs) -> str | None:
    """Return the folder of the hidden states in the cache of `output_root`; None where they are not kept.

    Searches of the same base, cut and computation share it.
    """
    if not keeps_hidden_states(config, inputs):
        return None
    training, device = config.training, device_of(config.training)
    threads = num_threads(training.threads) if device == "cpu" else 0
    computation = f"{training.precision}/{device}/{threads}/{config.evaluation.batch_tokens}"
    return str(cache_folder(Path(config.output_root, "cache").resolve(), inputs.model, computation))
