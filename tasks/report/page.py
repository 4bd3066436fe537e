"""Write a search's report as one HTML page that needs nothing beside it, and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from tasks.algorithm.costs import LedgerLine
from tasks.record.paths import REPORT
from tasks.record.view import SearchView, read_view
from tasks.report import words
from tasks.report.charts import checkpoint_tree, mean_chart, sub_dataset_chart, svg_of
from tasks.report.findings import is_champion_discarded, outcome_of, remarks, score_rows, standing, state_of, verdict
from tasks.report.soup import champion_name, soup_table
from tasks.report.tables import in_markdown, mean_of, plan_table, suspects_table
from tasks.runtime.files import write_file


def write_page(search_directory: str, view: SearchView | None = None) -> tuple[Path, Path]:
    """Write `report/report.html` and `report/report.md` of the search in a directory, by default as read; return both.

    Raises:
        JournalError: the directory's journal is not that of a search.
    """
    view = view or read_view(search_directory)
    html, markdown = (Path(search_directory, REPORT, name) for name in ("report.html", "report.md"))
    write_file(html, render_html(view))
    write_file(markdown, render_markdown(view))
    return html, markdown


def render_html(view: SearchView) -> str:
    """Return the page; every name and text of the user is escaped."""
    return _render("report.html.j2", {**_contents(view), **(_drawings(view) if view.rounds else {})})


def render_markdown(view: SearchView) -> str:
    """Return the same content without the drawings."""
    return _render("report.md.j2", _contents(view))


def _drawings(view: SearchView) -> dict[str, Any]:
    title = f"Mean {view.selected_on} over all {len(view.names)} sub-datasets"
    charts = []
    for index, name in enumerate(view.names):
        chart = svg_of(sub_dataset_chart(view, name), f"{name}: {view.selected_on}", f"chart {index}")
        charts.append((name, state_of(view, name), chart))
    return {
        "mean_title": title,
        "mean_chart": svg_of(mean_chart(view), title, "mean"),
        "charts": charts,
        "tree": svg_of(checkpoint_tree(view), "tree of checkpoints over optimizer steps", "tree"),
    }


def _contents(view: SearchView) -> dict[str, Any]:
    config, environment = view.started.config, dict(view.started.environment)
    versions = environment.pop("versions", {})
    settings = {"name": config["name"], "search id": view.started.search_id, "seed": config["seed"]}
    for section in ("search", "training", "evaluation", "model"):
        settings |= {f"{section}.{key}": value for key, value in config[section].items() if value is not None}
    return {
        "view": view,
        "words": words,
        "standing": standing(view),
        "verdict": verdict(view),
        "remarks": remarks(view),
        "outcomes": [(told, outcome_of(view, told)) for told in view.rounds],
        "has_discarded": any(told.accepted_to < told.end for told in view.rounds),
        "scores": score_rows(view),
        "test_mean": mean_of(view.tested, view.metric),
        "test_accuracy_mean": mean_of(view.tested, "accuracy"),
        "is_champion_discarded": is_champion_discarded(view),
        "champion_name": champion_name(view.champion.checkpoint, view.soup) if view.champion is not None else "",
        "soup": soup_table(view, view.history.soup),
        "suspects": suspects_table(view),
        "costs": flops_shares(view),
        "plan": plan_table(view.plan).rows,
        "mixture": {name: [told.shares.get(name) for told in view.rounds] for name in view.names},
        "data": _data_rows(view),
        "settings": _written(settings),
        "environment": _written({**environment, **versions}),
        "configuration": yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=110),
    }


def flops_shares(view: SearchView) -> list[tuple[LedgerLine, float]]:
    """Return the sums of each kind of work, and its share of all FLOPs."""
    total = view.all_flops
    return [(line, line.flops / total if total else 0.0) for line in view.totals.values()]


def _data_rows(view: SearchView) -> list[dict[str, Any]]:
    """Return the data of each sub-dataset, in the mixture's order; None for what is not recorded yet."""
    configured = {part["name"]: part for part in view.started.config["mixture"]["sub_datasets"]}
    tested = {score.sub_dataset: score.num_examples for score in view.tested}
    rows = []
    for name in view.names:
        train = view.train.get(name)
        validation = view.rounds[0].curves[name].end.num_examples if view.rounds else None
        counts = (train and train.num_rows, train and train.num_tokens, validation, tested.get(name))
        sha256 = view.started.content.get(f"{name}/train", train.sha256 if train else "")
        row = {"name": name, "source": _source(configured.get(name, {})), "counts": counts, "sha256": sha256}
        rows.append({**row, "dropped": _dropped(view, name)})
    return rows


def _dropped(view: SearchView, name: str) -> str:
    """Return the rows of each split that were left out as too long; empty where the journal does not tell."""
    facts = {split: view.started.facts.get(f"{name}/{split}") for split in ("train", "validation", "test")}
    return ", ".join(f"{own.num_dropped:,} {split}" for split, own in facts.items() if own and own.num_dropped)


def _source(part: Mapping[str, Any]) -> str:
    if part.get("hub"):
        return " ".join(str(part[key]) for key in ("hub", "hub_config", "revision") if part.get(key))
    if part.get("synthetic"):
        return "generated: " + ", ".join(f"{key} {value}" for key, value in part["synthetic"].items())
    return str(part.get("path") or "unknown")


def _written(values: Mapping[str, Any]) -> dict[str, str]:
    return {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in values.items()}


def _render(template: str, contents: Mapping[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("tasks.report"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["markdown"] = in_markdown
    return environment.get_template(template).render(contents)
