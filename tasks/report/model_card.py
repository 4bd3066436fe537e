"""The champion's model card: what it is, where it comes from, how good it is, and how to load it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tasks.algorithm.state import CheckpointKey
from tasks.config.schema import SearchConfig
from tasks.contracts import CheckpointScores, SearchRef
from tasks.record.events import rounds_of, start_of
from tasks.record.journal import History
from tasks.record.names import search_title
from tasks.record.paths import CHAMPION
from tasks.report.markdown import (
    Events,
    champion_headings,
    champion_rows,
    exclusions_line,
    table,
)
from tasks.runtime.files import write_file

FILE = "README.md"


@dataclass(frozen=True)
class ModelCard:
    """A card: the values it begins with, the Markdown that follows, and the lineage as flat tags."""

    front: Mapping[str, Any]
    body: str
    lineage: Mapping[str, str]

    def write(self, directory: Path) -> None:
        """Put the card where a hub looks for it."""
        front = yaml.safe_dump(dict(self.front), sort_keys=False, allow_unicode=True)
        write_file(directory / FILE, f"---\n{front}---\n\n{self.body}\n")


def card_of(
    config: SearchConfig,
    search: SearchRef,
    events: Events,
    key: CheckpointKey,
    scores: tuple[CheckpointScores, CheckpointScores],
) -> ModelCard:
    """Return the card of the checkpoint `key` with its validation and its test scores."""
    base = config.model.source or "drawn from the search's seed (model.from_config)"
    splits = dict(zip(("validation", "test"), scores, strict=True))
    started = start_of(events)
    hub = {"base_model": config.model.source} if config.model.source is not None else {}
    front = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        **hub,
        "tags": ["msft", "supervised-fine-tuning"],
        "msft": {
            "search": search_title(search.name, search.search_id),
            "round": key.round,
            "step": key.step,
            "mixture": list(started.sub_datasets),
            "exclusions": _exclusions(events),
            "scores": {split: _plain(part) for split, part in splits.items()},
        },
    }
    lineage = {
        "msft.search": search_title(search.name, search.search_id),
        "msft.search_id": search.search_id,
        "msft.round": str(key.round),
        "msft.step": str(key.step),
        "msft.checkpoint": str(key),
        "msft.base_model": base,
        "msft.content_sha256": json.dumps({what: sha256[:16] for what, sha256 in started.content.items()}),
        "msft.git_commit": str(started.environment["git_commit"]),
    }
    return ModelCard(front, _body(search, events, key, scores, base), lineage)


def _body(
    search: SearchRef,
    events: Events,
    key: CheckpointKey,
    scores: tuple[CheckpointScores, CheckpointScores],
    base: str,
) -> str:
    state = History.of(events).state
    by_loss = start_of(events).by_loss
    directory = Path(search.directory, CHAMPION).resolve()
    load = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{directory}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{directory}")'
    )
    rows = champion_rows(*scores, state, by_loss=by_loss)
    parts = [
        f"# msft-{search.name}",
        f"Champion of search `{search_title(search.name, search.search_id)}`: {key}, fine-tuned from `{base}` on "
        f"{', '.join(start_of(events).sub_datasets)}.",
        exclusions_line(state, by_loss=by_loss),
        table(champion_headings(by_loss=by_loss), rows),
        "Validation chose this checkpoint among all that were scored; the test rows were scored once, afterwards.",
        f"```python\n{load}\n```",
        f"Or from MLflow: `mlflow artifacts download -u models:/msft-{search.name}@champion`.",
    ]
    return "\n\n".join(parts)


def _exclusions(events: Events) -> list[dict[str, Any]]:
    return [
        {"sub_dataset": name, "round": decided.round, "step": decided.decision.roll_back_to.step}
        for decided in rounds_of(events)
        for name in decided.decision.exclude
    ]


def _plain(scores: CheckpointScores) -> dict[str, dict[str, Any]]:
    """Return the scores by sub-dataset, rounded to what the rows can tell."""
    return {
        score.sub_dataset: {
            "accuracy": None if score.accuracy is None else round(score.accuracy, 4),
            "loss": round(score.loss, 4),
            "rows": score.num_examples,
        }
        for score in scores.scores
    }
