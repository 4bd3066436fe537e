"""`msft headroom`: what a search could gain at most, from one roll-out of SFT with averaged weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tasks.comparison.grid import configure, name_of
from tasks.config.loading import load_config
from tasks.config.presets import PRESETS
from tasks.config.schema import SearchConfig
from tasks.errors import ConfigError
from tasks.planning.plan import make_plan
from tasks.preparation import prepare_inputs
from tasks.record.plan import BOUNDS
from tasks.record.view import read_view
from tasks.report import words
from tasks.report.findings import headroom_text
from tasks.report.messages import tell, tell_heading, tell_table
from tasks.report.tables import Table, names, numbers

_CONTROL, _SEARCH = "sft_ema", "msft_memory"


def load_both(path: str, overrides: Sequence[str]) -> tuple[SearchConfig, SearchConfig]:
    """Return the configurations of SFT with averaged weights, as `msft compare` runs it, and of the file's search.

    The search is `msft_memory` where the file's own method excludes nothing.

    Raises:
        ConfigError: the file selects by loss, of whose rows nothing is kept.
    """
    search, shared = load_config(path, overrides), load_config(path, overrides, is_shared=True)
    if search.evaluation.selection == "loss":
        problem = (
            "evaluation.selection: got loss; expected accuracy: headroom is measured by the rows that a checkpoint "
            "answers as labelled; set evaluation.selection=accuracy"
        )
        raise ConfigError(path, [problem])
    if search.search.method not in ("msft", "forward"):
        search = configure(shared, _SEARCH, shared.seed, name_of(shared.name, _SEARCH, {}))
    return configure(shared, _CONTROL, shared.seed, name_of(shared.name, _CONTROL, {})), search


def show_headroom(directory: str, search: SearchConfig) -> dict[str, Any]:
    """Tell the headroom that a finished roll-out shows, and what `search` would cost more; return both as values."""
    view = read_view(directory)
    found = view.headroom
    assert found is not None  # it has a checkpoint at its start and one at its end, and selects by accuracy
    plan = make_plan(search, prepare_inputs.fn(search))
    costs = {bound: (cost := getattr(plan, bound)).training_flops + cost.evaluation_flops for bound in BOUNDS}
    tell_heading(f"headroom of {view.title}")
    rows = [(name, f"{100 * value:+.1f}") for name, value in found.by_sub_dataset.items()]
    tell_table(Table((*names("sub-dataset"), *numbers("own best − champion, points")), rows))
    tell(("headroom", "bold"), f": {headroom_text(found)}")
    tell(f"spent: {words.flops(view.all_flops)} on {PRESETS[_CONTROL].title}; its champion is in {directory}/champion")
    tell(
        f"a search with {search.search.method} would cost {words.flops(costs['expected'])} more "
        f"({words.flops(costs['least'])} to {words.flops(costs['most'])}, training and evaluation)"
    )
    values = {"search": view.title, "directory": directory, "headroom": asdict(found), "is_found": found.is_found}
    return {**values, "spent_flops": view.all_flops, "search_flops": costs}
