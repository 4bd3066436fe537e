"""A search in Markdown: MLflow's descriptions, Prefect's artifacts and the champion's model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tasks.algorithm.state import CheckpointKey
from tasks.contracts import CheckpointScores
from tasks.record.events import RoundDecided, Soup
from tasks.record.view import SearchView
from tasks.report.findings import headroom_text
from tasks.report.soup import champion_name, lineage_of, soup_table, trials_of
from tasks.report.tables import Table, champion_table, cost_table, decision_table, names, texts
from tasks.runtime.files import write_file

_LONGEST_REASONS = 5000  # MLflow cuts a run's description at 8,000 characters; the rest is in the journal.
_ROW_FRAME = 25

Splits = tuple[CheckpointScores, CheckpointScores]


def tell_search(view: SearchView) -> str:
    """Return the standing of a search, its exclusions with reasons, its cost and, at its end, the champion's scores."""
    state, champion = view.state, view.champion
    parts = [f"**Under way:** round {state.round} on {', '.join(state.active)}."]
    if state.is_finished:
        parts = [f"**Ended** after {state.round} rounds: {state.stop_reason}."]
    if champion is not None:
        value = f"mean validation {view.metric} {view.score(view.champion_score).shown:.4f}"
        far = "" if state.is_finished else " so far"
        what = champion.checkpoint if view.soup is None else champion_name(champion.checkpoint, view.soup)
        parts.append(f"**Champion{far}:** {what}, {value} over all sub-datasets.")
    parts += [_exclusions_line(view), _reasons(view), _headroom_line(view)]
    if view.crowned is not None:
        scores = champion_table(view, view.crowned.validation, view.crowned.test)
        parts.append(f"**Champion's scores:**\n\n{scores.markdown()}")
    if view.history.soup is not None:
        parts.append(f"**Tried in the average:**\n\n{soup_table(view, view.history.soup).markdown()}")
    if view.totals:
        parts.append(f"**Cost:**\n\n{cost_table(view.totals.values()).markdown()}")
    return "\n\n".join(filter(None, parts))


def _headroom_line(view: SearchView) -> str:
    """Return what any stopping by sub-dataset could gain at most; empty where it is not known."""
    found = headroom_text(view.headroom)
    return f"**Headroom:** {found}." if found else ""


def tell_round(view: SearchView, decided: RoundDecided) -> str:
    """Return a round's decision with its reason, its scores and cost, and of the newest round the headroom so far."""
    parts = [
        f"**Decision of round {decided.round}:** {decided.decision.reason}.",
        decision_table(decided.decision.verdicts, view.metric).markdown(),
        cost_table(decided.ledger).markdown(),
        _headroom_line(view) if decided is view.history.rounds[-1] else "",
    ]
    return "\n\n".join(filter(None, parts))


def round_rows(view: SearchView) -> list[dict[str, Any]]:
    """Return a row for each round: mixture, decision and cost."""
    return [
        {
            "round": decided.round,
            "active": ", ".join(decided.active),
            "excluded": ", ".join(decided.decision.exclude) or "none",
            "rolled back to": str(decided.decision.roll_back_to),
            "champion so far": str(decided.champion.checkpoint),
            f"its mean {view.metric}": round(view.score(decided.champion.score).shown, 4),
            **{f"{line.kind} tokens": line.num_tokens for line in decided.ledger},
        }
        for decided in view.history.rounds
    ]


def spaced(markdown: str) -> str:
    """Return the same text with wider cells, for MLflow's pages, which leave no space between columns."""
    lines = markdown.split("\n")
    return "\n".join(line if line.startswith("| ---") else line.replace(" | ", "&emsp; | ") for line in lines)


def _exclusions_line(view: SearchView) -> str:
    each = [
        f"{e.sub_dataset} (round {e.round}, the search went on from {e.checkpoint}, "
        f"{view.metric} {view.score(e.score).shown:.3f})"
        for e in view.state.excluded
    ]
    return f"**Excluded, in order:** {'; '.join(each) or 'none'}."


def _reasons(view: SearchView) -> str:
    """Return the newest decisions with their reasons, as many as fit, in order."""
    rows: list[tuple[str, ...]] = []
    room = _LONGEST_REASONS
    for decided in reversed(view.history.rounds):
        row = (str(decided.round), ", ".join(decided.active), decided.decision.reason)
        room -= sum(map(len, row)) + _ROW_FRAME
        if room < 0:
            break
        rows.insert(0, row)
    hidden = len(view.history.rounds) - len(rows)
    remark = f"\n\nThe {hidden} rounds before these are in `journal.jsonl`." if hidden else ""
    return Table((*names("round"), *texts("trained on", "decision and reason")), rows).markdown() + remark


@dataclass(frozen=True)
class ModelCard:
    """The champion's card: the values it begins with, the Markdown that follows, and the lineage as flat tags."""

    front: Mapping[str, Any]
    body: str
    lineage: Mapping[str, str]

    def write(self, directory: Path) -> None:
        """Put the card where a hub looks for it."""
        front = yaml.safe_dump(dict(self.front), sort_keys=False, allow_unicode=True)
        write_file(directory / "README.md", f"---\n{front}---\n\n{self.body}\n")


def card_of(
    view: SearchView, directory: Path, key: CheckpointKey, scores: Splits, soup: Soup | None = None
) -> ModelCard:
    """Return the card of the model in `directory`: of the checkpoint of `key`, or of an average that begins with it."""
    started, source = view.started, view.started.config["model"]["source"]
    base = source or "drawn from the search's seed (model.from_config)"
    front = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        **({"base_model": source} if source else {}),
        "tags": ["msft", "supervised-fine-tuning"],
        "msft": {
            "search": view.title,
            "round": key.round,
            "step": key.step,
            "mixture": list(view.names),
            "exclusions": [
                {"sub_dataset": name, "round": told.index, "step": told.target.step}
                for told in view.rounds
                for name in told.exclude
            ],
            "scores": {"validation": _plain(scores[0]), "test": _plain(scores[1])},
            **({"soup": trials_of(soup)} if soup is not None else {}),
        },
    }
    lineage = {
        "msft.search": view.title,
        "msft.search_id": started.search_id,
        "msft.round": str(key.round),
        "msft.step": str(key.step),
        "msft.checkpoint": str(key),
        "msft.base_model": base,
        "msft.content_sha256": json.dumps({what: sha256[:16] for what, sha256 in started.content.items()}),
        "msft.git_commit": str(started.environment["git_commit"]),
        **lineage_of(soup),
    }
    what = f"{key if soup is None else champion_name(key, soup)}, fine-tuned from `{base}`"
    return ModelCard(front, _body(view, directory.resolve(), what, scores, soup), lineage)


def _body(view: SearchView, directory: Path, what: str, scores: Splits, soup: Soup | None) -> str:
    chosen = "this checkpoint among all that were scored"
    if soup is not None:
        chosen = f"which of the checkpoints to average:\n\n{soup_table(view, soup).markdown()}\n\nIt saw no test row"
    return f"""# msft-{view.started.name}

Champion of search `{view.title}`: {what} on {", ".join(view.names)}.

{_exclusions_line(view)}

{champion_table(view, *scores).markdown()}

Validation chose {chosen}; the test rows were scored once, afterwards.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{directory}")
tokenizer = AutoTokenizer.from_pretrained("{directory}")
```

Or from MLflow: `mlflow artifacts download -u models:/msft-{view.started.name}@champion`."""


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
