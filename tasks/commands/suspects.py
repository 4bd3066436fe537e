"""`msft inspect --suspects`: the train rows that the peak of their sub-dataset answers otherwise than labelled."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.config.schema import SearchConfig
from tasks.errors import ConfigError
from tasks.record.ownership import directory_of
from tasks.record.suspects import Suspects, read_suspects
from tasks.report import words
from tasks.report.messages import tell, tell_heading

SHOWN = 20


def suspects_of(config: SearchConfig, name: str | None) -> Mapping[str, Suspects]:
    """Return the suspect rows on record of the search of a configuration, by sub-dataset, or of one.

    Raises:
        ConfigError: there is no such sub-dataset, or the search has none on record.
    """
    names = [sub_dataset.name for sub_dataset in config.mixture.sub_datasets]
    if name is not None and name not in names:
        raise ConfigError(config.name, [f"no sub-dataset {name!r}; the mixture has {', '.join(names)}"])
    directory = str(directory_of(config))
    found = read_suspects(directory)
    if not found:
        problem = (
            f"--suspects: got no suspect rows in {directory}; expected those of a search with "
            "evaluation.suspects=true; run it: msft search CONFIG --set evaluation.suspects=true (a finished search "
            "keeps what it has: give another name)"
        )
        raise ConfigError(config.name, [problem])
    return {own: found[own] for own in names if own in found and name in (None, own)}


def show_suspects(found: Mapping[str, Suspects], limit: int) -> None:
    """Tell the first rows of each sub-dataset, those of the largest loss first."""
    for name, one in found.items():
        tell_heading(f"{name}: {len(one.rows):,} of {one.num_rows:,} train rows, at {words.checkpoint(one.key)}")
        for row in one.rows[:limit]:
            where = row.where or f"row {row.row}"
            tell(
                (where, "bold"),
                f": labelled {row.label.strip()!r}, answered {row.answer.strip()!r}, loss {row.loss:.3f}",
            )
        if len(one.rows) > limit:
            tell(f"… and {len(one.rows) - limit:,} more; --limit shows more, report/suspects.csv all")
