"""Time scoring against lm-evaluation-harness's own model class on the same rows, and count what a pass computes.

    LM_EVAL_PYTHON=…/bin/python python -m tests.benchmarks.scoring data/real10.yaml --pairs 5 --json scoring.json

Kinds of rows: choices as letters (as the sub-datasets have them), the same questions with the texts of the options as
choices, and answers that are generated. Both score the rows of a kind in turn, once a pair, in processes that have
loaded the model before. Prints the ratio of their seconds (theirs ÷ ours; above 1, ours is faster) as median and range
over the pairs, and how many verdicts are equal. The harness takes the fastest of the batch sizes given.

Counted over all validation rows of the configuration: padded ÷ needed tokens, by budget. Counted at the output layer,
over the rows that are timed: logit positions computed ÷ needed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from tasks.algorithm.answers import number_in
from tasks.config.loading import load_config
from tasks.config.schema import SearchConfig
from tasks.contracts import BaseModelRef, ScoreSplit
from tasks.data.base_model import prepare_base_model
from tasks.data.examples import Example
from tasks.data.inputs import make_encoder
from tasks.data.sources import read_splits
from tasks.data.tokenization import tokenize_split
from tasks.workers.model import load_base, shape_of
from tasks.workers.scoring import Scorer
from tasks.workers.trees import pack

LIMIT = 64
BUDGETS = {"CPU": 512, "GPU, default": 8192, "GPU, real10": 32768}
_OPTION = re.compile(r"^([A-H])\. (.*)\n", re.MULTILINE)


def with_texts(example: Example) -> Example | None:
    """Return a row whose choices are the texts of its lettered options; None where it has none."""
    texts = {letter: f" {text}" for letter, text in _OPTION.findall(example.prompt)}
    choices = tuple(texts.get(choice.strip(), "") for choice in example.choices)
    if not choices or not all(choices) or len(set(choices)) < len(choices):
        return None
    completion = texts[example.completion.strip()]
    prompt = _OPTION.sub("", example.prompt)
    return replace(example, prompt=prompt, completion=completion, answer=completion.strip(), choices=choices)


def rows_by_kind(config: SearchConfig) -> dict[str, list[list[Example]]]:
    """Return the validation rows of each kind, a list a sub-dataset."""
    parts = [read_splits(config, sub_dataset)["validation"] for sub_dataset in config.mixture.sub_datasets]
    texts = [[made for row in part if (made := with_texts(row)) is not None] for part in parts]
    return {
        "letters": [part for part in parts if part[0].choices],
        "texts": [part for part in texts if part],
        "generated": [part for part in parts if not part[0].choices],
    }


class Ours:
    """The scorer of a search, with the base model."""

    def __init__(self, config: SearchConfig, base: BaseModelRef, cache: Path) -> None:
        self.encoder, self._cache = make_encoder(config, base), cache
        self.model = load_base(base)
        batch_tokens = config.evaluation.batch_tokens
        self.scorer = Scorer(self.model, self.encoder.tokenizer, batch_tokens, shape_of(self.model), autocast=False)
        self.scorer.answers = {}

    def split(self, name: str, rows: Sequence[Example]) -> ScoreSplit:
        split = tokenize_split(self.encoder, name, "validation", rows, self._cache, "drop")
        metric = "multiple_choice" if rows[0].choices else "numeric"
        return ScoreSplit(name=name, metric=metric, max_new_tokens=LIMIT, split=split)

    def time(self, splits: Sequence[ScoreSplit]) -> tuple[float, float, str]:
        """Return the seconds and CPU seconds of scoring, and which rows are right."""
        began, began_cpu = time.perf_counter(), time.process_time()
        scores = self.scorer.score_all(splits)
        return time.perf_counter() - began, time.process_time() - began_cpu, "".join(s.correct for s in scores)


class Theirs:
    """The harness, in a process of its own."""

    def __init__(self, python: str, directory: str, threads: int) -> None:
        command = [python, str(Path(__file__).with_name("harness.py")), directory, str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def time(self, rows: Sequence[Example], batch_size: int) -> tuple[float, float, str]:
        """Return the same of the harness."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = [{"prompt": row.prompt, "choices": row.choices} for row in rows]
        print(
            json.dumps({"rows": asked, "limit": LIMIT, "batch_size": batch_size}), file=self._process.stdin, flush=True
        )
        answered = json.loads(self._process.stdout.readline())
        verdicts = "".join(str(int(_is_right(*pair))) for pair in zip(rows, answered["answers"], strict=True))
        return answered["seconds"], answered["cpu_seconds"], verdicts


def _is_right(row: Example, answer: Any) -> bool:
    if not row.choices:
        return number_in(answer) is not None and number_in(answer) == number_in(row.answer)
    return row.choices[answer.index(max(answer))] == row.completion


def compare(
    ours: Ours, theirs: Theirs, parts: Sequence[Sequence[Example]], kind: str, pairs: int, sizes: Sequence[int]
) -> dict[str, Any]:
    """Return the times of both on the same rows, in turn."""
    splits = [ours.split(f"{kind}-{index}", part) for index, part in enumerate(parts)]
    rows = [row for part in parts for row in part]
    size = min(sizes, key=lambda size: theirs.time(rows, size)[0]) if sizes[1:] else sizes[0]
    ours.time(splits)
    both = [(ours.time(splits), theirs.time(rows, size)) for _ in range(pairs)]
    ratios = sorted(other[0] / own[0] for own, other in both)
    return {
        "kind": kind,
        "rows": len(rows),
        "batch_size": size,
        "ours_s": [own[0] for own, _ in both],
        "theirs_s": [other[0] for _, other in both],
        "ratio": {"median": median(ratios), "least": ratios[0], "most": ratios[-1]},
        "cpu_ratio": median(other[1] / own[1] for own, other in both),
        "equal_verdicts": sum(a == b for a, b in zip(both[0][0][2], both[0][1][2], strict=True)),
    }


def count(ours: Ours, parts: Sequence[Sequence[Example]], kind: str) -> dict[str, Any]:
    """Return padded ÷ needed tokens of all rows for each budget; tokens that texts share are needed once."""
    plan = ours.scorer.plan([ours.split(f"all-{kind}-{index}", part) for index, part in enumerate(parts)])
    trees = [tree for each in plan.passes for line in each.lines for tree in line]
    needed = sum(len(tree.ids) for tree in trees)
    padded = {
        name: sum(each.width * len(each.lines) for each in pack(trees, budget, alone=False)) / needed
        for name, budget in BUDGETS.items()
    }
    return {"kind": kind, "rows": sum(map(len, parts)), "needed_tokens": needed, "padded_by_needed": padded}


def count_positions(ours: Ours, parts: Sequence[Sequence[Example]], kind: str) -> float:
    """Return logit positions computed ÷ needed by the passes over some rows, counted at the output layer."""
    splits, computed = [ours.split(f"{kind}-{index}", part) for index, part in enumerate(parts)], [0]
    head = ours.model.get_output_embeddings()
    with (
        torch.inference_mode(),
        head.register_forward_hook(lambda head, inputs, output: computed.append(output[..., 0].numel())),
    ):
        ours.scorer.forward_passes(splits)
    return sum(computed) / ours.scorer.plan(splits).cost.num_head_positions


def main(arguments: Sequence[str] | None = None) -> int:
    """Count and measure, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="a.b=c, as `msft` takes it.")
    parser.add_argument("--rows", type=int, default=8, help="Of each sub-dataset, for the times.")
    parser.add_argument("--kinds", nargs="+", default=["letters", "texts", "generated"], help="To time.")
    parser.add_argument("--pairs", type=int, default=5, help="0: count only.")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 16], help="The harness takes the fastest.")
    parser.add_argument("--json", type=Path, help="Write everything there too.")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(given.config, [f"output_root={folder}", *given.overrides])
        base = prepare_base_model(config)
        ours, kinds = Ours(config, base, Path(folder, "tokens")), rows_by_kind(config)
        counted = []
        for kind, parts in {"as configured": kinds["letters"] + kinds["generated"], "texts": kinds["texts"]}.items():
            few = [part[: given.rows] for part in parts]
            counted.append(count(ours, parts, kind) | {"positions": count_positions(ours, few, kind)})
            padded = ", ".join(f"{name} {share:.3f}" for name, share in counted[-1]["padded_by_needed"].items())
            print(
                f"{kind}: padded / needed tokens {padded}; logit positions {counted[-1]['positions']:.3f}", flush=True
            )
        timed = []
        if given.pairs:
            theirs = Theirs(os.environ.get("LM_EVAL_PYTHON", sys.executable), base.directory, given.threads)
            for kind in given.kinds:
                few = [part[: given.rows] for part in kinds[kind]]
                timed.append(found := compare(ours, theirs, few, kind, given.pairs, given.batch_sizes))
                ratio = "{median:.2f}x ({least:.2f} to {most:.2f})".format_map(found["ratio"])
                print(
                    f"{kind}, {found['rows']} rows: {ratio}, in CPU seconds {found['cpu_ratio']:.2f}x; "
                    f"ours {median(found['ours_s']):.1f} s, theirs {median(found['theirs_s']):.1f} s "
                    f"(batches of {found['batch_size']}); {found['equal_verdicts']} verdicts equal",
                    flush=True,
                )
        if given.json is not None:
            given.json.write_text(json.dumps({"counted": counted, "timed": timed}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
