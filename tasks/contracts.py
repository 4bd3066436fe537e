"""The values that stages hand on: frozen, small, serializable; references and numbers, never a model."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from tasks.algorithm.answer_shares import SplitFacts
from tasks.algorithm.curves import Curve
from tasks.algorithm.state import CheckpointKey
from tasks.config.schema import LoraConfig, SearchConfig, TrainingConfig
from tasks.redaction import Uri

Metric = Literal["multiple_choice", "multiple_choice_normalized", "exact_match", "numeric", "loss"]
BY_CHOICES = ("multiple_choice", "multiple_choice_normalized")  # metrics of rows with choices; nothing is generated


class Value(BaseModel):
    """Base class of all contracts: frozen, unknown fields forbidden."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BaseModelRef(Value):
    """The base model as every worker loads it: a transformers directory with safetensors weights and a tokenizer."""

    directory: str
    sha256: str
    trust_remote_code: bool
    attn_implementation: str | None
    gradient_checkpointing: bool
    lora: LoraConfig | None
    seed: int
    vocab_size: int
    max_positions: int | None
    chat_template: str | None = None
    trainable_layers: int | None = None  # those at the top; None: all, and everything else


class SplitRef(Value):
    """One tokenized split, a `datasets` directory with the columns of `encode_rows`; `sha256` is of the rows' texts."""

    directory: str
    num_rows: int
    num_tokens: int
    sha256: str


class SubDatasetRef(Value):
    """One sub-dataset, ready for training and selection; its test split is hashed, not opened; `facts` are by split."""

    name: str
    metric: Metric
    max_new_tokens: int
    train: SplitRef
    validation: SplitRef
    test_sha256: str | None
    num_test_rows: int
    facts: dict[str, SplitFacts] = {}
    warnings: tuple[str, ...] = ()


class SearchRef(Value):
    """One search: its id, where it keeps files and records; MLflow may be unavailable for `outage_s` seconds."""

    search_id: str
    name: str
    directory: str
    tracking_uri: Uri
    outage_s: float
    experiment_id: str
    run_id: str


class Inputs(Value):
    """The inputs of a search: the base model and the sub-datasets, in the mixture's order."""

    model: BaseModelRef
    sub_datasets: tuple[SubDatasetRef, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Return the sub-datasets' names."""
        return tuple(sub_dataset.name for sub_dataset in self.sub_datasets)


class SearchRun(Value):
    """One search under way: where it keeps and records things (`ref`), its configuration and its inputs."""

    ref: SearchRef
    config: SearchConfig
    inputs: Inputs


class SubDatasetDraws(Value):
    """The part of one sub-dataset in a roll-out, from position `cursor` of its stream on, as on the accepted path.

    `is_rehearsed`: excluded, and kept in the mixture so that it is not forgotten.
    """

    name: str
    train: SplitRef
    rows_per_epoch: int
    cursor: int
    is_rehearsed: bool = False


class Mixture(Value):
    """The active mixture of one round: `MixturePlan` with its splits and data positions."""

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
    part_of: tuple[int, int] | None = None


class CheckpointRef(Value):
    """One published checkpoint.

    Attributes:
        directory: relative to the search directory, so that the search can be moved.
        sha256: hash of its manifest, which holds the size and hash of every file.
        cursors: rows drawn from each sub-dataset on the accepted path; the data position.
        published_at_ms: Unix time; the time stamp of all its metrics, so that logging again changes nothing.
    """

    key: CheckpointKey
    directory: str
    sha256: str
    num_bytes: int
    cursors: dict[str, int]
    published_at_ms: int


class RegisteredCheckpoint(CheckpointRef):
    """A published checkpoint in MLflow: its round's run, its logged model, and the validation scores held there."""

    run_id: str
    model_id: str
    scores: CheckpointScores | None


class RolloutSpec(Value):
    """The input of a training worker, `rollout_spec.json`; `options` are those of `method`."""

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
    hidden_states: str | None = None  # folder of the frozen layers' outputs; None: every pass computes them
    hidden_states_flops: float = 0.0  # of computing them once, counted at the search's start


class IntervalStats(Value):
    """The training between two checkpoints, over all processes and without padding.

    Attributes:
        flops: by `tasks.algorithm.costs`, including a method's look-aheads.
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
    """The output of a training worker, `rollout_result.json`; the first one's checkpoints start with the base model."""

    round: int
    start: CheckpointKey
    checkpoints: tuple[CheckpointRef, ...]
    intervals: tuple[IntervalStats, ...]


class SubDatasetScore(Value):
    """One sub-dataset at one checkpoint.

    Attributes:
        accuracy: share of correct rows in [0, 1]; None for the metric `loss`.
        loss: mean per completion token, in nats.
        correct: one 0 or 1 per row, in the split's order; empty for the metric `loss`, and if read from MLflow.
    """

    sub_dataset: str
    accuracy: float | None
    loss: float
    num_examples: int
    correct: str


class EvaluationCost(Value):
    """The cost of scoring; `num_examples` counts each row once per checkpoint."""

    num_tokens: int = 0
    num_examples: int = 0
    flops: float = 0.0
    seconds: float = 0.0


class RoundCurves(Value):
    """The curves of all N sub-datasets over one roll-out, in the mixture's order, and their cost."""

    curves: tuple[Curve, ...]
    cost: EvaluationCost


class CheckpointScores(Value):
    """All sub-datasets at one checkpoint, with the cost of scoring; `sha256` is that of the checkpoint's manifest."""

    key: CheckpointKey
    sha256: str
    scores: tuple[SubDatasetScore, ...]
    cost: EvaluationCost


class ScoreRequest(Value):
    """One checkpoint and the sub-datasets to score it on; the worker waits for a directory that does not exist yet."""

    key: CheckpointKey
    directory: str
    sub_datasets: tuple[str, ...]


class ScoreSplit(Value):
    """The rows of one sub-dataset to score."""

    name: str
    metric: Metric
    max_new_tokens: int
    split: SplitRef


class ScoreSpec(Value):
    """The input of a scoring worker, `score_spec.json`.

    With `export_directory`, the (one) checkpoint is exported to a transformers directory and scored from there; without
    requests, the base model is scored. A generation ends with a token that ends rows of any of `splits`, `end_splits`.
    With `keeps_answers`, texts are generated to their end, and the answers of each sub-dataset are written too.
    """

    search_id: str
    model: BaseModelRef
    requests: tuple[ScoreRequest, ...]
    splits: tuple[ScoreSplit, ...]
    end_splits: tuple[SplitRef, ...] = ()
    keeps_answers: bool = False
    batch_tokens: int
    threads: int | None
    device: Literal["auto", "cpu"]
    precision: Literal["fp32", "bf16"]
    export_directory: str | None
    output_directory: str
    hidden_states: str | None = None


class WorkerFailure(Value):
    """The cause of a worker's failure, `rollout_failure.json` or `score_failure.json`."""

    cause: str
    error: str
    rank: int
    retryable: bool
    preempted: bool
    traceback: str
    is_out_of_memory: bool = False


class ChampionResult(Value):
    """The best checkpoint of a search, exported and scored once on test."""

    key: CheckpointKey
    directory: str
    model_version: str
    validation: CheckpointScores
    test: CheckpointScores | None
