"""Write a search's report as one HTML page that needs nothing beside it, and as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from tasks.report import words
from tasks.report.charts import checkpoint_tree, mean_chart, sub_dataset_chart
from tasks.report.drawing import svg_of
from tasks.report.findings import is_discarded, standing, verdict
from tasks.report.plan_view import plan_table
from tasks.report.remarks import remarks
from tasks.report.scores import mean_of
from tasks.report.story import Story, read_story
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


def write_page(search_directory: str) -> tuple[Path, Path]:
    """Write `report/report.html` and `report/report.md` from what the search's directory holds; return both.

    Raises:
        JournalError: the directory's journal is not that of a search.
    """
    story = read_story(search_directory)
    directory = Path(search_directory, "report")
    pages = (directory / "report.html", directory / "report.md")
    write_file(pages[0], render_html(story))
    write_file(pages[1], render_markdown(story))
    return pages


def render_html(story: Story) -> str:
    """Return the page; every name and text of the user is escaped."""
    return _render("report.html.j2", {**_contents(story), **(_drawings(story) if story.rounds else {})})


def render_markdown(story: Story) -> str:
    """Return the same content without the drawings."""
    return _render("report.md.j2", _contents(story))


def _drawings(story: Story) -> dict[str, Any]:
    title = f"Mean {story.metric} over all {len(story.names)} sub-datasets"
    charts = [
        (
            name,
            state_of(story, name),
            svg_of(sub_dataset_chart(story, name), f"{name}: {story.metric}", f"chart {index}"),
        )
        for index, name in enumerate(story.names)
    ]
    tree = svg_of(checkpoint_tree(story), "tree of checkpoints over optimizer steps", "tree")
    return {
        "mean_title": title,
        "mean_chart": svg_of(mean_chart(story), title, "mean"),
        "charts": charts,
        "tree": tree,
    }


def _contents(story: Story) -> dict[str, Any]:
    test = story.crowned.test.scores if story.crowned and story.crowned.test else ()
    return {
        "story": story,
        "words": words,
        "standing": standing(story),
        "verdict": verdict(story),
        "remarks": remarks(story),
        "decisions": decision_rows(story),
        "scores": score_rows(story),
        "test_mean": mean_of(test, by_loss=story.by_loss),
        "test_accuracy_mean": mean_of(test, by_loss=False),
        "is_champion_discarded": story.champion is not None
        and is_discarded(story, story.champion.checkpoint),
        "costs": cost_rows(story),
        "plan": plan_table(story.plan).rows,
        "size": words.size,
        "mixture": mixture_rows(story),
        "data": data_rows(story),
        "settings": (*_identity(story), *settings_rows(story, _SECTIONS)),
        "environment": environment_rows(story),
        "configuration": yaml.safe_dump(dict(story.config), sort_keys=False, allow_unicode=True, width=110),
    }


def _identity(story: Story) -> tuple[tuple[str, str], ...]:
    return ("name", story.config["name"]), ("search id", story.search_id), ("seed", str(story.config["seed"]))


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
