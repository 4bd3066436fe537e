"""Compare partial with full fine-tuning: tokens a CPU second in training and scoring, and what the cache costs.

    python -m tests.benchmarks.partial data/smollm2_cpu.yaml --layers 4 --steps 6 --rows 60

One process and one call measure both, one after the other, on the same rows: compare only their ratio. CPU seconds, not
the clock, since other work on the machine stretches it (and slows each second too: repeat it on an idle machine).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.config.loading import load_config
from tasks.config.schema import SearchConfig
from tasks.contracts import Inputs, ScoreSplit
from tasks.data.inputs import load_inputs
from tasks.freezing import hidden_states_spec
from tasks.planning.hidden_cache import hidden_states_folder
from tasks.workers.hidden_states import compute
from tasks.workers.model import load_base, load_tokenizer, shape_of
from tasks.workers.scoring import Cost, Scorer
from tests.benchmarks.training_step import trainer_of


def cpu_seconds(act: Callable[[], object]) -> float:
    """Return the CPU seconds that this process spends on an action."""
    began = time.process_time()
    act()
    return time.process_time() - began


def training_speed(config: SearchConfig, inputs: Inputs, num_steps: int, folder: Path) -> float:
    """Return the tokens a CPU second of `num_steps` optimizer steps, after one other."""
    trainer = trainer_of(config, inputs, folder)
    trainer.take_steps(1)
    before = trainer.account.trained()["num_tokens"]
    seconds = cpu_seconds(lambda: trainer.take_steps(num_steps))
    return float((trainer.account.trained()["num_tokens"] - before) / seconds)


def scoring_speed(inputs: Inputs, splits: Sequence[ScoreSplit], folder: str | None, batch_tokens: int) -> float:
    """Return the tokens a CPU second of the forward passes over the rows of splits, after one pass."""
    model = load_base(inputs.model)
    scorer = Scorer(model, load_tokenizer(inputs.model), batch_tokens, shape_of(model), autocast=False)
    scorer.hidden_states = folder
    with scorer._inference():
        scorer.plan(splits)
        scorer.cost = Cost()
        seconds = cpu_seconds(lambda: scorer.forward_passes(splits))
    return scorer.cost.num_tokens / seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both and print speeds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rows", type=int, default=60, help="train and validation rows of each sub-dataset")
    parser.add_argument("--set", nargs="*", default=[], help="settings, as of msft")
    given = parser.parse_args(arguments)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"output_root={folder}/out", "training.device=cpu", *given.set]
        for sub_dataset in load_config(given.config, overrides).mixture.sub_datasets:
            rows = f"{{train: {given.rows}, validation: {given.rows}}}"
            overrides.append(f"mixture.sub_datasets.{sub_dataset.name}.max_rows={rows}")
        for name, layers in (("full", "all"), (f"{given.layers} layers", given.layers)):
            config = load_config(given.config, [*overrides, f"training.trainable_layers={layers}"])
            inputs = load_inputs(config)
            states = hidden_states_folder(config, inputs)
            if states is not None:
                spec, path = hidden_states_spec(config, inputs, states), Path(folder, "hidden_states_spec.json")
                path.write_text(spec.model_dump_json())
                print(f"outputs of the frozen layers: {cpu_seconds(lambda: compute(path)):.0f} CPU seconds, once")  # noqa: B023
            splits = hidden_states_spec(config, inputs, "").scored
            trained = training_speed(config, inputs, given.steps, Path(folder, name))
            scored = scoring_speed(inputs, splits, states, config.evaluation.batch_tokens)
            found[name] = (trained, scored)
            print(f"{name}: {trained:,.0f} training and {scored:,.0f} scoring tokens a CPU second")
    (full, partial) = found.values()
    print(f"ratio: {partial[0] / full[0]:.1f} in training, {partial[1] / full[1]:.1f} in scoring")
    return 0


if __name__ == "__main__":
    sys.exit(main())
