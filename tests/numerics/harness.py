"""What lm-evaluation-harness gives for rows: `python harness.py ROWS.json ANSWERS.json`, by a Python that has it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def answer(wanted: dict[str, Any]) -> dict[str, Any]:
    """Return log-likelihoods of choices, the choices taken by acc and acc_norm, texts, and the numbers in them."""
    import numpy as np
    from lm_eval.api.instance import Instance
    from lm_eval.filters.extraction import RegexFilter
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=wanted["model"], device="cpu", dtype="float32", batch_size=1)
    pairs = [(row["prompt"], choice) for row in wanted["chosen"] for choice in row["choices"]]
    asked = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    sums = iter([float(value) for value, _ in model.loglikelihood(asked)])
    likelihoods = [[next(sums) for _ in row["choices"]] for row in wanted["chosen"]]
    lengths = [[float(len(choice.strip())) for choice in row["choices"]] for row in wanted["chosen"]]
    settings = {"until": [model.tokenizer.eos_token], "max_gen_toks": wanted["limit"], "do_sample": False}
    prompts = [Instance("generate_until", {}, (prompt, settings), i) for i, prompt in enumerate(wanted["prompts"])]
    texts = model.generate_until(prompts)
    # The filter of its task gsm8k, `flexible-extract`.
    numbers = RegexFilter(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1).apply(
        [[t] for t in texts], [{}] * len(texts)
    )
    return {
        "likelihoods": likelihoods,
        "acc": [int(np.argmax(values)) for values in likelihoods],
        "acc_norm": [int(np.argmax(np.array(v) / np.array(n))) for v, n in zip(likelihoods, lengths, strict=True)],
        "texts": texts,
        "numbers": [found[0].replace(",", "").replace("$", "").rstrip(".") for found in numbers],
    }


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(answer(json.loads(Path(sys.argv[1]).read_text()))))
