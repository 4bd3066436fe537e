"""The configuration of a search: frozen sections, each default with its source."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from tasks.algorithm.mixture import MixtureSettings
from tasks.config.method import SEARCH, StrategyConfig
from tasks.config.sub_datasets import Name, Settings, SubDatasetConfig, Text
from tasks.redaction import Uri

Beta = Annotated[float, Field(ge=0, lt=1)]


class LoraConfig(Settings):
    """Low-rank adapters (peft) in place of full fine-tuning."""

    r: int = Field(16, ge=1, description="Rank of the adapters.")
    alpha: int = Field(32, ge=1, description="Scale: the update is multiplied by alpha / r.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout probability in the adapters.")
    target_modules: str | tuple[str, ...] = Field("all-linear", description="Module names as peft takes them.")


class ModelConfig(Settings):
    """The base model: exactly one of `source` and `from_config`."""

    source: Text | None = Field(
        None,
        description="A directory, a .gguf file, package:NAME/FILE (a file in an installed package) "
        "or a hub id. Paths are relative to the YAML file.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a hub id.")
    from_config: dict[str, Any] | None = Field(
        None, description="A transformers config (with model_type); weights are drawn from the search's seed."
    )
    tokenizer: Text | None = Field(
        None, description="Tokenizer in place of the model's; `characters` is the quickstart's own."
    )
    chat_template: Text | None = Field(
        None,
        description="Chat template in place of the tokenizer's, which base models often lack: a Jinja file, or chatml, "
        "gemma, llama3, mistral or plain (text and the tokenizer's end). The champion keeps it.",
    )
    trust_remote_code: bool = Field(False, description="Run code that the model's repository brings along.")
    attn_implementation: str | None = Field(
        None,
        description="As in transformers. null: its choice, except that packed rows attend within themselves on a GPU.",
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: less memory, more time."
    )
    lora: LoraConfig | None = Field(None, description="null: full fine-tuning.")

    @model_validator(mode="after")
    def _has_one_origin(self) -> ModelConfig:
        if (self.source is None) == (self.from_config is None):
            raise ValueError("give exactly one of model.source and model.from_config")
        if self.from_config is not None and self.tokenizer is None:
            raise ValueError("model.from_config needs model.tokenizer")
        if self.from_config is not None and "model_type" not in self.from_config:
            raise ValueError("model.from_config needs the key model_type, such as llama")
        if self.revision is not None and self.source is None:
            raise ValueError("model.revision takes effect only with model.source")
        return self


class MixtureConfig(Settings):
    """The sub-datasets and their proportions."""

    sub_datasets: tuple[SubDatasetConfig, ...] = Field(
        min_length=1, description="Members of the mixture, in order; names differ."
    )
    proportions: Literal["by_size", "equal"] | dict[str, float] = Field(
        "by_size", description="by_size: each row once an epoch (paper); equal; or a weight per name."
    )
    share_unit: Literal["examples", "tokens"] = Field("examples", description="Unit in which proportions are measured.")
    on_overlap: Literal["error", "warn"] = Field("error", description="When the same text is in two splits.")
    on_too_long: Literal["error", "drop"] = Field(
        "error", description="When a row has more tokens than training.max_length; rows are never truncated."
    )

    @field_validator("sub_datasets")
    @classmethod
    def _names_differ(cls, value: tuple[SubDatasetConfig, ...]) -> tuple[SubDatasetConfig, ...]:
        names = [sub_dataset.name for sub_dataset in value]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two sub-datasets are named {', '.join(twice)}; names must differ")
        return value

    @model_validator(mode="after")
    def _proportions_name_all(self) -> MixtureConfig:
        if isinstance(self.proportions, dict):
            names = {sub_dataset.name for sub_dataset in self.sub_datasets}
            wrong = sorted(names ^ set(self.proportions))
            wrong += sorted(name for name, weight in self.proportions.items() if weight <= 0)
            if wrong:
                raise ValueError(
                    "proportions must give a weight above 0 for each sub-dataset and no other name; "
                    f"see {', '.join(wrong)}"
                )
        return self


class TrainingConfig(Settings):
    """Optimization in a roll-out."""

    learning_rate: float = Field(1e-5, gt=0, description="Peak learning rate (paper, section 4.1).")
    batch_size: int = Field(64, ge=1, description="Rows per optimizer step, over all processes (paper: 64).")
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        description="Rows per forward pass of one process. null: by tokens, as many as the memory of a GPU holds, else "
        "2,048 with padding; fewer where that saves padding.",
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant",
        description="Learning rate after warm-up; linear and cosine decay over search.max_epochs to final_lr_ratio.",
    )
    final_lr_ratio: float = Field(
        0.1, ge=0, le=1, description="Final learning rate as a share of the peak; not with schedule: constant."
    )
    warmup_steps: int = Field(10, ge=0, description="Steps of linear warm-up.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay of AdamW.")
    adam_betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="Decay of AdamW's two moments.")
    adam_epsilon: float = Field(1e-8, gt=0, description="Epsilon of AdamW.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    max_length: int = Field(1024, ge=8, description="Most tokens of a row, prompt and completion.")
    batching: Literal["grouped", "packed", "padded"] = Field(
        "grouped",
        description="grouped: micro-batches of rows of similar length; packed: rows end to end in one row; padded: in "
        "order. The rows of a step, and its gradient, are the same in all three.",
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16: forward and backward pass; training changes and saves weights in fp32."
    )
    device: Literal["auto", "cpu"] = Field("auto", description="auto: a GPU where there is one.")
    trainable_layers: Literal["all"] | Annotated[int, Field(ge=1)] = Field(
        "all",
        description="Layers at the top that are trained, with the last norm (or their adapters alone, with LoRA). The "
        "layers below, embeddings and output layer stay frozen. all: full fine-tuning.",
    )
    hidden_cache_gb: float = Field(
        20.0,
        ge=0,
        description="Most gigabytes on the disk for the outputs of the frozen layers, computed once a row. 0, or rows "
        "that need more: every pass computes them anew.",
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Decay of a moving average of the weights, which is scored and exported in their place. "
        "0.99 damps the noise between checkpoints (measured: SFT 83.0, with it 85.3).",
    )
    num_processes: int = Field(
        1, ge=1, description="Processes on each machine, each with a GPU of its own where there are GPUs."
    )
    machines: int = Field(1, ge=1, description="Machines that train together; `msft follow` runs on each further one.")
    silence_s: float = Field(60.0, ge=1, description="Seconds without a heartbeat after which a machine is lost.")
    join_minutes: float = Field(60.0, gt=0, description="Minutes to wait for missing machines, or for the search.")
    accelerate_config: str | None = Field(
        None,
        description="An Accelerate config file (FSDP …) that sets processes and devices; its num_processes is of all "
        "machines together. DeepSpeed, and another num_machines or mixed_precision than here, are refused.",
    )
    threads: int | None = Field(
        None, ge=1, description="CPU threads per process. null: all cores; 1 is fastest below 0.5M parameters."
    )

    @model_validator(mode="after")
    def _settings_take_effect(self) -> TrainingConfig:
        if self.accelerate_config is not None and self.num_processes != 1:
            raise ValueError("num_processes takes no effect beside accelerate_config; set it in that file")
        if unused := [name for name in ("silence_s", "join_minutes") if self.machines == 1 and self.is_changed(name)]:
            raise ValueError(f"{unused[0]} takes effect only with machines of at least 2; got machines=1")
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise ValueError("micro_batch_size is larger than batch_size, and takes no effect")
        if self.trainable_layers == "all" and self.is_changed("hidden_cache_gb"):
            raise ValueError("hidden_cache_gb takes no effect with trainable_layers=all; leave it out")
        if self.schedule == "constant" and self.is_changed("final_lr_ratio"):
            raise ValueError("final_lr_ratio takes no effect with schedule=constant; leave one of them out")
        return self


class EvaluationConfig(Settings):
    """Scoring of checkpoints on validation."""

    batch_tokens: int = Field(
        8192, ge=64, description="Most padded tokens per forward pass; a CPU takes at most 512, which is faster there."
    )
    beside_training: Literal["auto", "yes", "no"] = Field(
        "auto",
        description="Score checkpoints in a process of its own on the same device while the roll-out goes on. "
        "auto: on a CPU with cores for both.",
    )
    selection: Literal["accuracy", "loss"] = Field(
        "accuracy", description="Score of curves, exclusions and the champion."
    )
    suspects: bool = Field(
        False,
        description="List the train rows that the checkpoint at their sub-dataset's peak answers otherwise than "
        "labelled; costs answering the train rows at each round's new peaks, and changes no decision.",
    )


class TrackingConfig(Settings):
    """MLflow's record of the search."""

    uri: Uri | None = Field(None, description="MLflow's tracking URI. null: an SQLite file in output_root.")
    experiment: str = Field("msft", description="MLflow experiment.")
    outage_minutes: float = Field(60.0, ge=0, description="Minutes to wait for an MLflow that does not answer.")


class SearchConfig(Settings):
    """All settings of a search."""

    name: Name = Field(description="Name of the search; its directory is NAME-ID.")
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of data order, carved splits and drawn weights.")
    output_root: Text = Field("searches", description="Folder of all searches, relative to the working directory.")
    model: ModelConfig
    mixture: MixtureConfig
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    if TYPE_CHECKING:
        search: StrategyConfig
    else:
        search: SEARCH
    tracking: TrackingConfig = TrackingConfig()
    config_dir: str = Field(".", description="Set on loading: folder of the YAML file, to which inputs are relative.")

    @model_validator(mode="after")
    def _settings_take_effect(self) -> SearchConfig:
        if self.search.exclude_per_round > len(self.mixture.sub_datasets):
            raise ValueError("search.exclude_per_round is larger than the number of sub-datasets")
        if self.search.protocol == "paper" and any(s.splits.test is None for s in self.mixture.sub_datasets):
            raise ValueError("search.protocol=paper selects on test splits, and a sub-dataset has none")
        if self.search.rule == "paired" and self.evaluation.selection == "loss":
            raise ValueError(
                "search.rule=paired compares right and wrong rows; got evaluation.selection=loss, expected accuracy"
            )
        return self

    @property
    def mixture_settings(self) -> MixtureSettings:
        """Return the settings that the mixtures and the end of the search depend on."""
        search = self.search
        return MixtureSettings(
            proportions=self.mixture.proportions,
            share_unit=self.mixture.share_unit,
            batch_size=self.training.batch_size,
            compute_budget_epochs=search.compute_budget_epochs,
            evals_per_epoch=search.evals_per_epoch,
            max_epochs=search.max_epochs,
            max_rounds=search.max_rounds,
            continues=search.rule == "paired",
        )

    def resolve(self, path: str) -> Path:
        """Return `path` relative to the YAML file's folder."""
        return Path(self.config_dir, os.path.expanduser(path))
