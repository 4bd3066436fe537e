"""The values that stages hand on: frozen, small, serialisable; references and numbers, never a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from tasks.algorithm.curves import Curve
from tasks.algorithm.state import CheckpointKey
from tasks.config.schema import LoraConfig, TrainingConfig
from tasks.redaction import Uri

Metric = Literal["multiple_choice", "exact_match", "numeric", "loss"]


class Value(BaseModel):
    """Base of all contracts: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BaseModelRef(Value):
    """The base model as every worker loads it, in a transformers directory: safetensors and tokenizer (`sha256`)."""

    directory: str
    sha256: str
    trust_remote_code: bool
    attn_implementation: str | None
    gradient_checkpointing: bool
    lora: LoraConfig | None
    seed: int
    vocab_size: int
    max_positions: int | None


class SplitRef(Value):
    """One tokenised split on disk.

    Attributes:
        directory: a `datasets` directory with the columns `encode_rows` describes.
        num_rows, num_tokens: rows; prompt and completion tokens.
        sha256: hash of the rows' texts, as MLflow and the resume check have it.
    """

    directory: str
    num_rows: int
    num_tokens: int
    sha256: str


class SubDatasetRef(Value):
    """One sub-dataset, ready for training and selection; its test split is named, not opened."""

    name: str
    metric: Metric
    max_new_tokens: int
    train: SplitRef
    validation: SplitRef
    test_sha256: str | None
    num_test_rows: int


class SearchRef(Value):
    """One open search: who it is, where it keeps and records things; MLflow may be away for `outage_s` seconds."""

    search_id: str
    name: str
    directory: str
    tracking_uri: Uri
    outage_s: float
    experiment_id: str
    run_id: str

    def round_directory(self, round_index: int) -> Path:
        """Return where a round keeps its files."""
        return Path(self.directory, "rounds", f"{round_index:03d}")


class Inputs(Value):
    """What a search trains on: the base model and the sub-datasets, in the mixture's order."""

    model: BaseModelRef
    sub_datasets: tuple[SubDatasetRef, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Return the sub-datasets' names."""
        return tuple(sub_dataset.name for sub_dataset in self.sub_datasets)


class SubDatasetDraws(Value):
    """What one sub-dataset gives to a roll-out.

    Attributes:
        train: its tokenised rows.
        rows_per_epoch: rows drawn in one epoch of this mixture.
        cursor: rows drawn from it on the accepted path so far; the next draw's position in its stream.
        is_rehearsed: it is excluded, and kept in the mixture so that it is not forgotten.
    """

    name: str
    train: SplitRef
    rows_per_epoch: int
    cursor: int
    is_rehearsed: bool = False


class Mixture(Value):
    """The active mixture of one round.

    Attributes:
        epoch_rows, full_epoch_rows: rows in one epoch of this mixture, and of all N (the budget's unit).
        epochs, num_rows, num_steps: length of the roll-out in epochs of this mixture, rows and optimizer steps.
        evaluation_offsets: steps after the roll-out's start at which a checkpoint is published, ascending.
        example_shares, token_shares: realised share of each sub-dataset.
    """

    round: int
    draws: tuple[SubDatasetDraws, ...]
    epoch_rows: int
    full_epoch_rows: int
    epochs: float
    num_rows: int
    num_steps: int
    evaluation_offsets: tuple[int, ...]
    example_shares: dict[str, float]
    token_shares: dict[str, float]


class CheckpointRef(Value):
    """One published checkpoint.

    Attributes:
        directory: relative to the search directory, so that the search can be moved.
        sha256: hash of its manifest, which holds the size and hash of every file.
        num_bytes: size of all its files.
        cursors: rows drawn from each sub-dataset on the accepted path, the data position.
        published_at_ms: Unix time; the time stamp of all its metrics, so that logging again changes nothing.
    """

    key: CheckpointKey
    directory: str
    sha256: str
    num_bytes: int
    cursors: dict[str, int]
    published_at_ms: int


class RolloutSpec(Value):
    """All that a training worker needs; `rollout_spec.json`. `options` are those of `method`."""

    search_id: str
    seed: int
    method: str
    options: dict[str, Any]
    mixture: Mixture
    model: BaseModelRef
    training: TrainingConfig
    start: CheckpointRef | None
    start_directory: str | None
    first_step: int
    optimizer: Literal["restore", "reset"]
    decay_steps: int
    output_directory: str


class IntervalStats(Value):
    """What was trained between two checkpoints, over all processes.

    Attributes:
        num_tokens, num_completion_tokens, num_examples: without padding.
        flops, seconds: by `tasks.algorithm.costs`, a method's look-aheads too; wall time of the training steps.
        losses: mean training loss a completion token of each sub-dataset, in nats.
        batch_hash: hash over the rows of every batch since the roll-out's start.
    """

    key: CheckpointKey
    num_tokens: int
    num_completion_tokens: int
    num_examples: int
    flops: float
    seconds: float
    learning_rate: float
    losses: dict[str, float]
    batch_hash: str


class RolloutResult(Value):
    """What one roll-out published; `rollout_result.json`, written last.

    `checkpoints` begins with the base model in the search's first roll-out; `intervals` are those between them.
    """

    round: int
    start: CheckpointKey
    checkpoints: tuple[CheckpointRef, ...]
    intervals: tuple[IntervalStats, ...]


class SubDatasetScore(Value):
    """One sub-dataset at one checkpoint.

    Attributes:
        accuracy: share of correct rows in [0, 1]; None for the metric `loss`.
        loss: mean a completion token, in nats.
        correct: one 0 or 1 a row, in the split's order; empty for the metric `loss`.
    """

    sub_dataset: str
    accuracy: float | None
    loss: float
    num_examples: int
    correct: str


class EvaluationCost(Value):
    """What scoring cost; examples count each row once a checkpoint."""

    num_tokens: int = 0
    num_examples: int = 0
    flops: float = 0.0
    seconds: float = 0.0


class RoundCurves(Value):
    """The curves of all N sub-datasets over one roll-out, in the mixture's order, and what they cost."""

    curves: tuple[Curve, ...]
    cost: EvaluationCost


class CheckpointScores(Value):
    """All sub-datasets at one checkpoint, and what scoring them cost; `sha256` is that of the checkpoint's manifest."""

    key: CheckpointKey
    sha256: str
    scores: tuple[SubDatasetScore, ...]
    cost: EvaluationCost


class ScoreRequest(Value):
    """One checkpoint and the sub-datasets to score it on; the worker waits for a directory that is not there yet."""

    key: CheckpointKey
    directory: str
    sub_datasets: tuple[str, ...]


class ScoreSplit(Value):
    """One sub-dataset's rows to score."""

    name: str
    metric: Metric
    max_new_tokens: int
    split: SplitRef


class ScoreSpec(Value):
    """All that a scoring worker needs; `score_spec.json`.

    `export_directory`, where given, first receives the (one) checkpoint as an ordinary transformers directory,
    and the scores are then those of the model loaded from there.
    """

    search_id: str
    model: BaseModelRef
    requests: tuple[ScoreRequest, ...]
    splits: tuple[ScoreSplit, ...]
    batch_tokens: int
    threads: int | None
    device: Literal["auto", "cpu"]
    precision: Literal["fp32", "bf16"]
    export_directory: str | None
    output_directory: str


class WorkerFailure(Value):
    """Why a worker ended; `rollout_failure.json` or `score_failure.json`."""

    cause: str
    error: str
    rank: int
    retryable: bool
    preempted: bool
    traceback: str
    is_out_of_memory: bool = False


class ChampionResult(Value):
    """The search's end: the best checkpoint, exported and scored once on test."""

    key: CheckpointKey
    directory: str
    model_version: str
    validation: CheckpointScores
    test: CheckpointScores | None
