"""Compare an epoch of training with TRL's SFTTrainer's, on the same model and rows, in turn.

    python -m tests.benchmarks.training_against_trl --trl /tmp/trl/bin/python --sizes 368k 25m 135m --pairs 3

TRL is no dependency of this project: give the Python of an environment that has both. Its best setting on a CPU is
rows grouped by length; its loss computes logits at labels alone, in parts, by itself. Both train fp32 with fused AdamW,
the same batch size and clipping, and each row once. Prints tokens without padding a second of all cores' time in the
second epoch, which other work on the machine disturbs less than wall time, and the ratio of each pair.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from tasks.config.loading import load_config
from tasks.config.schema import SearchConfig
from tasks.contracts import Inputs
from tasks.data.inputs import load_inputs
from tests.benchmarks.training_step import trainer_of

DATA = Path(__file__).parents[2] / "data"
# Of real10, so many rows of each sub-dataset; and the shape of a model with SmolLM2's vocabulary.
SIZES: dict[str, dict[str, Any]] = {
    "368k": {},
    "25m": {"rows": 32, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 16},
    "135m": {"rows": 8, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30},
}


def prepare(size: str, folder: Path) -> tuple[SearchConfig, Inputs]:
    """Return the configuration and inputs of a size; its model has random weights, but for the smallest."""
    shape = dict(SIZES[size])
    settings = [f"output_root={folder}", "training.device=cpu", "training.precision=fp32", "training.batch_size=16"]
    settings += ["training.batching=grouped", "training.warmup_steps=0"]
    if not shape:
        config = load_config(str(DATA / "quickstart.yaml"), settings)
        return config, load_inputs(config)
    source, limit = str(DATA / "real10.yaml"), f"{{train: {shape.pop('rows')}, validation: 8, test: 8}}"
    names = [sub_dataset.name for sub_dataset in load_config(source).mixture.sub_datasets]
    slices = [f"mixture.sub_datasets.{name}.max_rows={limit}" for name in names]
    config = load_config(source, [*settings, *slices, "training.threads=2"])
    inputs = load_inputs(config)
    heads = {"num_attention_heads": shape["hidden_size"] // 64, "num_key_value_heads": 1, "tie_word_embeddings": True}
    if size == "135m":
        heads["num_key_value_heads"] = 3
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=inputs.model.vocab_size, **shape, **heads))
    model.save_pretrained(folder / "model")
    directory = {"directory": str(folder / "model")}
    return config, inputs.model_copy(update={"model": inputs.model.model_copy(update=directory)})


def ours(config: SearchConfig, inputs: Inputs, folder: Path) -> float:
    """Return the tokens a CPU second of this project's worker in the second epoch."""
    trainer = trainer_of(config, inputs, folder)
    steps = -(-trainer.spec.mixture.epoch_rows // config.training.batch_size)
    trainer.take_steps(steps)
    before, began = trainer.account.trained()["num_tokens"], time.process_time()
    trainer.take_steps(steps)
    return (trainer.account.trained()["num_tokens"] - before) / (time.process_time() - began)


def theirs(given: dict[str, Any]) -> float:
    """Return the tokens a CPU second of TRL's trainer in the second epoch."""
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(given["threads"])
    rows = datasets.concatenate_datasets([datasets.load_from_disk(path) for path in given["splits"]])
    rows = rows.map(
        lambda row: {"labels": [i if m else -100 for i, m in zip(row["input_ids"], row["loss_mask"], strict=True)]}
    ).select_columns(["input_ids", "labels"])
    times: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            times.append(time.process_time())

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            times.append(time.process_time())

    arguments = SFTConfig(
        output_dir=given["folder"], per_device_train_batch_size=given["batch_size"], num_train_epochs=2,
        learning_rate=1e-4, lr_scheduler_type="constant", max_grad_norm=1.0, optim="adamw_torch_fused", use_cpu=True,
        bf16=False, gradient_checkpointing=False, train_sampling_strategy="group_by_length", report_to=[],
        save_strategy="no", logging_strategy="no", max_length=None, dataset_kwargs={"skip_prepare_dataset": True},
        disable_tqdm=True, dataloader_num_workers=0,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(given["model"], dtype=torch.float32)
    SFTTrainer(model, args=arguments, train_dataset=rows, callbacks=[Clock()]).train()
    return sum(map(len, rows["input_ids"])) / (times[3] - times[2])


def measure(given: dict[str, Any], python: str) -> float:
    """Return the tokens a CPU second that a process of its own measures."""
    command = [python, "-m", "tests.benchmarks.training_against_trl", "--one", json.dumps(given)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the pairs of each size and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", default=sys.executable, help="the Python of an environment with TRL")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one is not None:
        one = given.one
        if "model" in one:
            print(theirs(one))
        else:
            torch.set_num_threads(one["threads"])
            config, inputs = SearchConfig.model_validate(one["config"]), Inputs.model_validate(one["inputs"])
            print(ours(config, inputs, Path(one["folder"], "rounds", "000")))
        return 0
    for size in given.sizes:
        with tempfile.TemporaryDirectory() as name:
            config, inputs = prepare(size, Path(name))
            common = {"folder": name, "threads": config.training.threads or 1, "batch_size": config.training.batch_size}
            mine = {**common, "config": config.model_dump(mode="json"), "inputs": inputs.model_dump(mode="json")}
            splits = [part.train.directory for part in inputs.sub_datasets]
            trl = {**common, "model": inputs.model.directory, "splits": splits}
            ratios = []
            for _ in range(given.pairs):
                own, other = measure(mine, sys.executable), measure(trl, given.trl)
                ratios.append(own / other)
                print(f"{size}: {own:,.0f} tokens a CPU second, TRL {other:,.0f}, ratio {ratios[-1]:.2f}", flush=True)
            print(f"{size}: median {statistics.median(ratios):.2f}, {min(ratios):.2f}–{max(ratios):.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
