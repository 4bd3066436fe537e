"""Score any model on the rows of a mixture: `msft score`."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tasks.algorithm.answers import Answer
from tasks.config.schema import SearchConfig
from tasks.contracts import BaseModelRef, CheckpointScores, ScoreSpec, ScoreSplit, Value
from tasks.data.base_model import prepare_base_model
from tasks.data.inputs import open_splits
from tasks.errors import ConfigError
from tasks.record.ownership import own_cache
from tasks.record.paths import ANSWERS, BASE, score_file_of
from tasks.report.messages import tell, tell_table
from tasks.report.tables import Table, names, numbers
from tasks.runtime.files import make_folder, write_file
from tasks.runtime.launch import run_module

logger = logging.getLogger(__name__)
_Z = 1.959963984540054  # 95 %
Answers = dict[str, list[Answer]]  # of each sub-dataset, in the order of the rows


class RowScore(Value):
    """One row of a split, by its index: what is expected, and what the model answers."""

    sub_dataset: str
    row: int
    is_correct: bool
    answer: str
    expected: str


class SplitScore(Value):
    """The score of one sub-dataset, or of their mean, with its 95 % interval; without one for the metric `loss`."""

    name: str
    metric: str
    num_rows: int
    score: float | None
    interval: tuple[float, float] | None
    loss: float


class ModelScores(Value):
    """The result of `msft score`; `rows` is empty unless they are asked for."""

    model: str
    split: str
    sub_datasets: tuple[SplitScore, ...]
    mean: SplitScore
    rows: tuple[RowScore, ...]


def score_model(config: SearchConfig, source: str | None, split: str, *, with_rows: bool) -> ModelScores:
    """Score a model on a split of every sub-dataset that has it.

    Args:
        source: a directory, a GGUF file or a hub id; None for the base model of the configuration.
        with_rows: generate every text to its end, and return what is answered to each row.

    Raises:
        ConfigError: no sub-dataset has the split.
        DataError, ModelError: a row or the model is unusable.
    """
    config = _with_whole_model(config, source)
    with own_cache(config):
        model = prepare_base_model(config)
        splits = open_splits(config, model, split)
    if not splits:
        raise ConfigError(config.name, [f"no sub-dataset has a split {split}; set splits.{split}"])
    if split == "test":
        logger.warning("this opens the test splits; choose no setting and no model by their scores")
    scores, answers = _run(config, model, splits, with_rows=with_rows)
    parts = [
        SplitScore(
            name=one.sub_dataset,
            metric=part.metric,
            num_rows=one.num_examples,
            score=one.accuracy,
            interval=wilson_interval(one.correct.count("1"), one.num_examples) if one.correct else None,
            loss=one.loss,
        )
        for one, part in zip(scores.scores, splits, strict=True)
    ]
    rows = tuple(row for part in splits for row in _rows_of(part, answers)) if answers else ()
    return ModelScores(
        model=source or model.directory, split=split, sub_datasets=tuple(parts), mean=mean_of(parts), rows=rows
    )


def _with_whole_model(config: SearchConfig, source: str | None) -> SearchConfig:
    """Return the configuration with another model, if one is given, without adapters or frozen layers."""
    update: dict[str, Any] = {"lora": None}
    if source is not None:
        own = str(Path(source).resolve()) if Path(source).exists() else source
        update |= {"source": own, "from_config": None, "tokenizer": None, "revision": None}
    training = config.training.model_copy(update={"trainable_layers": "all"})
    return config.model_copy(update={"model": config.model.model_copy(update=update), "training": training})


def _run(
    config: SearchConfig, model: BaseModelRef, splits: tuple[ScoreSplit, ...], *, with_rows: bool
) -> tuple[CheckpointScores, Answers | None]:
    output = Path(config.output_root, "cache", "scores", model.sha256[:16])
    make_folder(output)
    for left in output.iterdir():
        left.unlink()
    spec = ScoreSpec(
        search_id="",
        model=model,
        requests=(),
        splits=splits,
        keeps_answers=with_rows,
        batch_tokens=config.evaluation.batch_tokens,
        threads=config.training.threads,
        device=config.training.device,
        precision=config.training.precision,
        export_directory=None,
        output_directory=str(output),
    )
    spec_path = output.with_name(f"{output.name}_spec.json")
    write_file(spec_path, spec.model_dump_json(indent=1))
    run_module("tasks.workers.score", spec_path, name="scoring", threads=spec.threads)
    scores = CheckpointScores.model_validate_json((output / score_file_of(BASE)).read_text())
    return scores, TypeAdapter(Answers).validate_json((output / ANSWERS).read_text()) if with_rows else None


def _rows_of(split: ScoreSplit, answers: Answers) -> list[RowScore]:
    import datasets

    expected = datasets.load_from_disk(split.split.directory)["answer" if split.metric == "numeric" else "completion"]
    return [
        RowScore(sub_dataset=split.name, row=row, is_correct=answer.is_correct, answer=answer.text, expected=text)
        for row, (answer, text) in enumerate(zip(answers[split.name], expected, strict=False))
    ]


def wilson_interval(num_correct: int, num_rows: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share."""
    share, square = num_correct / num_rows, _Z**2 / num_rows
    center = share + square / 2
    spread = _Z * math.sqrt(share * (1 - share) / num_rows + square / num_rows / 4)
    low, high = (center - spread) / (1 + square), (center + spread) / (1 + square)
    return min(share, max(0.0, low)), max(share, min(1.0, high))


def mean_of(parts: Sequence[SplitScore]) -> SplitScore:
    """Return the mean over sub-datasets; its interval is that of a sum of independent shares (Newcombe's)."""
    scored = [(part.score, part.interval) for part in parts if part.score is not None and part.interval is not None]
    score, interval = None, None
    if len(scored) == len(parts):
        score = sum(share for share, _ in scored) / len(parts)
        below = math.hypot(*(share - low for share, (low, _) in scored)) / len(parts)
        above = math.hypot(*(high - share for share, (_, high) in scored)) / len(parts)
        interval = (score - below, score + above)
    loss = sum(part.loss for part in parts) / len(parts)
    num_rows = sum(part.num_rows for part in parts)
    return SplitScore(name="mean", metric="", num_rows=num_rows, score=score, interval=interval, loss=loss)


def show_scores(scores: ModelScores) -> None:
    """Tell the scores, and the rows if there are any."""
    for row in scores.rows:
        verdict = ("right", "green") if row.is_correct else ("wrong", "red")
        tell(f"{row.sub_dataset} row {row.row}: ", verdict, f"  {row.answer!r}; expected {row.expected!r}")
    lines = [
        (
            part.name,
            part.metric,
            f"{part.num_rows:,}",
            "none" if part.score is None else f"{part.score:.4f}",
            "none" if part.interval is None else "{:.4f} to {:.4f}".format(*part.interval),
            f"{part.loss:.4f}",
        )
        for part in (*scores.sub_datasets, scores.mean)
    ]
    tell_table(Table((*names("sub-dataset", "metric"), *numbers("rows", "score", "95 % interval", "loss")), lines))
    tell(f"{scores.model} on {scores.split}")
