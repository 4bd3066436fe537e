"""The champion's model card: what it is, where it comes from, how good it is, and how to load it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tasks.algorithm.state import CheckpointKey
from tasks.contracts import CheckpointScores
from tasks.record.paths import search_title
from tasks.record.view import SearchView
from tasks.report.markdown import exclusions_line
from tasks.report.scores import champion_table
from tasks.runtime.files import write_file

Splits = tuple[CheckpointScores, CheckpointScores]
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


def card_of(view: SearchView, directory: Path, key: CheckpointKey, scores: Splits) -> ModelCard:
    """Return the card of a checkpoint.

    Args:
        view: of the search that published it.
        directory: where the model is.
        key: of the checkpoint.
        scores: its validation and its test scores.
    """
    source = view.started.config["model"]["source"]
    base = source or "drawn from the search's seed (model.from_config)"
    front = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        **({"base_model": source} if source is not None else {}),
        "tags": ["msft", "supervised-fine-tuning"],
        "msft": {
            "search": _title(view),
            "round": key.round,
            "step": key.step,
            "mixture": list(view.names),
            "exclusions": [
                {"sub_dataset": name, "round": told.index, "step": told.target.step}
                for told in view.rounds
                for name in told.exclude
            ],
            "scores": {split: _plain(part) for split, part in zip(("validation", "test"), scores, strict=True)},
        },
    }
    return ModelCard(front, _body(view, directory.resolve(), key, scores, base), _lineage(view, key, base))


def _lineage(view: SearchView, key: CheckpointKey, base: str) -> dict[str, str]:
    """Return the origin of a checkpoint as flat tags."""
    started = view.started
    return {
        "msft.search": _title(view),
        "msft.search_id": started.search_id,
        "msft.round": str(key.round),
        "msft.step": str(key.step),
        "msft.checkpoint": str(key),
        "msft.base_model": base,
        "msft.content_sha256": json.dumps({what: sha256[:16] for what, sha256 in started.content.items()}),
        "msft.git_commit": str(started.environment["git_commit"]),
    }


def _body(view: SearchView, directory: Path, key: CheckpointKey, scores: Splits, base: str) -> str:
    load = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{directory}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{directory}")'
    )
    parts = [
        f"# msft-{view.started.name}",
        f"Champion of search `{_title(view)}`: {key}, fine-tuned from `{base}` on {', '.join(view.names)}.",
        exclusions_line(view),
        champion_table(view, *scores).markdown(),
        "Validation chose this checkpoint among all that were scored; the test rows were scored once, afterwards.",
        f"```python\n{load}\n```",
        f"Or from MLflow: `mlflow artifacts download -u models:/msft-{view.started.name}@champion`.",
    ]
    return "\n\n".join(parts)


def _title(view: SearchView) -> str:
    return search_title(view.started.name, view.started.search_id)


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
