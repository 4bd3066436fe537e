"""The champion in words, and how its average was chosen (`search.champion: soup`)."""

from __future__ import annotations

import json
from typing import Any

from tasks.algorithm.state import CheckpointKey
from tasks.record.events import Soup
from tasks.record.view import SearchView
from tasks.report import words
from tasks.report.tables import Table, names, numbers


def champion_name(key: CheckpointKey, soup: Soup | None) -> str:
    """Return the checkpoint that is the champion, or the average of several that is."""
    if soup is None or not soup.is_average:
        return words.checkpoint(key)
    return f"the average of {len(soup.members)} checkpoints ({words.listed([*map(words.checkpoint, soup.members)])})"


def soup_table(view: SearchView, soup: Soup | None) -> Table:
    """Return a row for each checkpoint in the order of trial: the mean score of the average with it, and its place."""
    rows = [
        (
            str(trial.checkpoint),
            words.score(view.score(trial.score).shown, 4),
            "averaged" if trial.is_member else "left out",
        )
        for trial in (soup.trials if soup is not None else ())
    ]
    return Table((*names("tried"), *numbers(f"mean {view.metric} with it"), *names("outcome")), rows)


def lineage_of(soup: Soup | None) -> dict[str, str]:
    """Return the averaged checkpoints in order, if they are several, and every trial with its exact score, as tags."""
    if soup is None:
        return {}
    members = {"msft.soup": ", ".join(map(str, soup.members))} if soup.is_average else {}
    return {**members, "msft.soup_trials": json.dumps(trials_of(soup))}


def trials_of(soup: Soup) -> list[dict[str, Any]]:
    """Return the trials as plain values."""
    return [
        {
            "round": trial.checkpoint.round,
            "step": trial.checkpoint.step,
            "score": trial.score,
            "is_member": trial.is_member,
        }
        for trial in soup.trials
    ]
