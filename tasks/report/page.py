"""Write a search's report as one HTML page that needs nothing beside it, and as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from tasks.record.paths import REPORT
from tasks.record.view import SearchView, read_view
from tasks.report import words
from tasks.report.charts import checkpoint_tree, mean_chart, sub_dataset_chart
from tasks.report.drawing import svg_of
from tasks.report.findings import is_discarded, standing, verdict
from tasks.report.plan_view import plan_table
from tasks.report.remarks import remarks
from tasks.report.scores import mean_of
from tasks.report.table import in_markdown
from tasks.report.tables import (
    cost_rows,
    data_rows,
    decision_rows,
    environment_rows,
    mixture_rows,
    score_rows,
    settings_rows,
    state_of,
)
from tasks.runtime.files import write_file

_SECTIONS = ("search", "training", "evaluation", "model")


def write_page(search_directory: str, view: SearchView | None = None) -> tuple[Path, Path]:
    """Write `report/report.html` and `report/report.md` of the search in a directory, by default as read; return both.

    Raises:
        JournalError: the directory's journal is not that of a search.
    """
    view = view or read_view(search_directory)
    directory = Path(search_directory, REPORT)
    pages = (directory / "report.html", directory / "report.md")
    write_file(pages[0], render_html(view))
    write_file(pages[1], render_markdown(view))
    return pages


def render_html(view: SearchView) -> str:
    """Return the page; every name and text of the user is escaped."""
    return _render("report.html.j2", {**_contents(view), **(_drawings(view) if view.rounds else {})})


def render_markdown(view: SearchView) -> str:
    """Return the same content without the drawings."""
    return _render("report.md.j2", _contents(view))


def _drawings(view: SearchView) -> dict[str, Any]:
    title = f"Mean {view.selected_on} over all {len(view.names)} sub-datasets"
    charts = [
        (
            name,
            state_of(view, name),
            svg_of(sub_dataset_chart(view, name), f"{name}: {view.selected_on}", f"chart {index}"),
        )
        for index, name in enumerate(view.names)
    ]
    tree = svg_of(checkpoint_tree(view), "tree of checkpoints over optimizer steps", "tree")
    return {"mean_title": title, "mean_chart": svg_of(mean_chart(view), title, "mean"), "charts": charts, "tree": tree}


def _contents(view: SearchView) -> dict[str, Any]:
    test = view.crowned.test.scores if view.crowned and view.crowned.test else ()
    return {
        "view": view,
        "words": words,
        "standing": standing(view),
        "verdict": verdict(view),
        "remarks": remarks(view),
        "decisions": decision_rows(view),
        "scores": score_rows(view),
        "test_mean": mean_of(test, by_loss=view.started.by_loss),
        "test_accuracy_mean": mean_of(test, by_loss=False),
        "is_champion_discarded": view.champion is not None and is_discarded(view, view.champion.checkpoint),
        "costs": cost_rows(view),
        "plan": plan_table(view.plan).rows,
        "size": words.size,
        "mixture": mixture_rows(view),
        "data": data_rows(view),
        "settings": (*_identity(view), *settings_rows(view, _SECTIONS)),
        "environment": environment_rows(view),
        "configuration": yaml.safe_dump(dict(view.started.config), sort_keys=False, allow_unicode=True, width=110),
    }


def _identity(view: SearchView) -> tuple[tuple[str, str], ...]:
    config = view.started.config
    return ("name", config["name"]), ("search id", view.started.search_id), ("seed", str(config["seed"]))


def _render(template: str, contents: dict[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("tasks.report"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["markdown"] = in_markdown
    return environment.get_template(template).render(contents)
