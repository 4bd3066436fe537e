"""Prepare the inputs of a search: the base model and the sub-datasets."""

from __future__ import annotations

from tasks.config.schema import SearchConfig
from tasks.contracts import Inputs
from tasks.data.inputs import load_inputs
from tasks.report import messages
from tasks.runtime.spans import span
from tasks.stage import stage


@stage("prepare inputs")
@span("preparation")
def prepare_inputs(config: SearchConfig) -> Inputs:
    """Return the base model and the tokenized sub-datasets; what is in the cache is not built again."""
    with messages.stage_progress("preparing", 1) as show:
        return load_inputs(config, lambda done, total: show(done, total=total))
