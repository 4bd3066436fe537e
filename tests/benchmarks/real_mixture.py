"""Compare methods on the ten real sub-datasets, and keep every number with what it was run on.

    python -m tests.benchmarks.real_mixture --methods sft,msft,msft_paper --seeds 1 2 3 --out results          # one GPU
    python -m tests.benchmarks.real_mixture --methods sft,msft --seeds 1 --out results --slice 16 16 16  # a CPU

`--slice` takes as many rows of each sub-dataset; without a GPU also settings that a CPU trains with in minutes.

Runs `msft compare` under OUT; the same command again goes on after an interruption. Then writes into OUT:
`scores.csv`, `ledger.csv`, `decisions.csv` (every search's own, with its name and seed), what the comparison wrote
itself, and `environment.json` (GPU, driver, versions, commit, hashes of data and model, command, seconds). A run on
other data, another model or another commit wants another OUT, since the journal of a search is never rewritten.
Disk: with all rows SFT writes 66 GB before it ends (`msft plan`), and each finished search keeps about 3 GB.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.config.loading import load_config
from tasks.config.schema import SearchConfig
from tasks.data.base_model import _package_file
from tasks.runtime.files import hash_file
from tasks.runtime.machine import describe_environment, has_accelerator

CONFIG = Path(__file__).parents[2] / "data" / "real10.yaml"
FRAMES = ("scores", "ledger", "decisions")
NO_SEARCHES = ("cache", "mlflow-artifacts")  # MLflow keeps a copy of each search's record and report
# What a CPU of two cores trains in minutes; by loss, which few rows tell apart better than accuracy.
ON_CPU = (
    "training.device=cpu",
    "training.precision=fp32",
    "training.batch_size=16",
    "training.micro_batch_size=null",
    "training.batching=packed",
    "training.warmup_steps=5",
    "evaluation.batch_tokens=4096",
    "evaluation.beside_training=auto",
    "evaluation.selection=loss",
    "search.evals_per_epoch=2",
    "search.max_epochs=4",
)


def overrides_of(config: str, slice_rows: Sequence[int] | None, extra: Sequence[str], *, on_cpu: bool) -> list[str]:
    """Return the `--set` values: those of a slice where one is asked for (and of a CPU), then the user's own."""
    if slice_rows is None:
        return list(extra)
    names = [sub_dataset.name for sub_dataset in load_config(config).mixture.sub_datasets]
    train, validation, test = slice_rows
    limits = f"{{train: {train}, validation: {validation}, test: {test}}}"
    return [*(f"mixture.sub_datasets.{name}.max_rows={limits}" for name in names), *(ON_CPU if on_cpu else ()), *extra]


def compare(arguments: argparse.Namespace, overrides: Sequence[str]) -> list[str]:
    """Run `msft compare` and return its command.

    Raises:
        CalledProcessError: it failed; its own message stands on the terminal.
    """
    command = [sys.executable, "-m", "flows.cli", "compare", arguments.config]
    command += ["--methods", arguments.methods, "--seeds", ",".join(str(seed) for seed in arguments.seeds)]
    if arguments.parallel is not None:
        command += ["--parallel", str(arguments.parallel)]
    for override in overrides:
        command += ["--set", override]
    subprocess.run(command, check=True)
    return command


def collect(searches: Path, out: Path) -> dict[str, pd.DataFrame]:
    """Write the frames of all finished searches under `searches` into `out` as one CSV each, and return them."""
    frames: dict[str, list[pd.DataFrame]] = {name: [] for name in FRAMES}
    for config_file in sorted(searches.rglob("config.yaml")):
        report = config_file.parent / "report"
        if config_file.relative_to(searches).parts[0] in NO_SEARCHES:
            continue
        if not ((config_file.parent / "journal.jsonl").is_file() and (report / "scores.csv").is_file()):
            continue
        config = load_config(str(config_file))
        for name in FRAMES:
            frame = pd.read_csv(report / f"{name}.csv")
            frame.insert(0, "seed", config.seed)
            frame.insert(0, "search", config_file.parent.name)
            frames[name].append(frame)
    merged = {name: pd.concat(parts, ignore_index=True) for name, parts in frames.items() if parts}
    for name, frame in merged.items():
        frame.to_csv(out / f"{name}.csv", index=False)
    return merged


def copy_comparison(searches: Path, out: Path) -> None:
    """Copy what the comparison itself wrote: files beside its searches, none of a search or of MLflow."""
    for path in searches.rglob("*"):
        inside = path.relative_to(searches)
        owned = any((searches / parent / "journal.jsonl").exists() for parent in inside.parents)
        is_other = inside.parts[0] in NO_SEARCHES
        if path.suffix in (".csv", ".png", ".json") and path.is_file() and not owned and not is_other:
            target = out / "comparison" / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def describe(config: SearchConfig, command: Sequence[str], seconds: float) -> dict[str, Any]:
    """Return what the numbers were run on."""
    files = [
        path
        for sub_dataset in config.mixture.sub_datasets
        if sub_dataset.path is not None
        for path in sorted(config.resolve(sub_dataset.path).glob("*.jsonl"))
    ]
    source = config.model.source or ""
    return {
        "command": list(command),
        "seconds": round(seconds, 1),
        "gpus": _gpus(),
        **describe_environment(),
        "model": {"source": source, "revision": config.model.revision, "sha256": _hash_of_model(source)},
        "data": {f"{path.parent.name}/{path.name}": hash_file(path) for path in files},
    }


def _hash_of_model(source: str) -> str | None:
    return hash_file(_package_file(source)) if source.startswith("package:") else None


def _gpus() -> list[str]:
    """Return name, driver and memory of each GPU; empty where there is none."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return []


def summary_of(scores: pd.DataFrame) -> pd.DataFrame:
    """Return for each search the mean over sub-datasets of the champion's test accuracy, in points."""
    test = scores[scores["split"] == "test"]
    mean = test.groupby(["search", "seed"], as_index=False)["accuracy"].mean()
    return mean.assign(accuracy=(100 * mean["accuracy"]).round(2)).rename(columns={"accuracy": "test_accuracy"})


def main() -> int:
    """Run the comparison and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(CONFIG))
    parser.add_argument("--methods", required=True, help="Names as `msft compare` knows them, with commas.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--slice", type=int, nargs=3, metavar=("TRAIN", "VALIDATION", "TEST"), help="Rows of each sub-dataset."
    )
    parser.add_argument("--parallel", type=int, help="Searches at a time, as `msft compare` takes it.")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="a.b=c, as `msft` takes it.")
    parser.add_argument("--only-collect", action="store_true", help="Run nothing; write again what is there.")
    arguments = parser.parse_args()
    searches = arguments.out / "searches"
    searches.mkdir(parents=True, exist_ok=True)
    overrides = overrides_of(arguments.config, arguments.slice, arguments.overrides, on_cpu=not has_accelerator())
    overrides.append(f"output_root={searches.resolve()}")
    began = time.monotonic()
    if not arguments.only_collect:
        command = compare(arguments, overrides)
        report = describe(load_config(arguments.config, overrides), command, time.monotonic() - began)
        (arguments.out / "environment.json").write_text(json.dumps(report, indent=1))
    merged = collect(searches, arguments.out)
    copy_comparison(searches, arguments.out)
    if "scores" not in merged:
        print(f"no finished search under {searches}")
        return 1
    print(summary_of(merged["scores"]).to_string(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
