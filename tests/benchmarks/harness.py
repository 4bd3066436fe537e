"""Score rows with lm-evaluation-harness's own model class, and time it: `python harness.py MODEL THREADS`.

Reads requests from standard input, a JSON object a line: `rows`, each with `prompt` and `choices` or none, `batch_size`
and `limit` (tokens to generate). Answers each with `seconds`, `cpu_seconds` and `answers`: of a row the log-likelihoods
of its choices, or the text.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def main() -> None:
    """Answer requests until the end of the input."""
    answers_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # its own output
    import torch
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(int(sys.argv[2]))
    model = HFLM(pretrained=sys.argv[1], device="cpu", dtype="float32", batch_size=1)
    for line in sys.stdin:
        request = json.loads(line)
        model.batch_size_per_gpu = request["batch_size"]
        began, began_cpu = time.perf_counter(), time.process_time()
        answers = score(model, request["rows"], request["limit"])
        took = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - began_cpu}
        print(json.dumps(took | {"answers": answers}), file=answers_to, flush=True)


def score(model: Any, rows: list[dict[str, Any]], limit: int) -> list[Any]:
    """Return the answer to each row; all have choices, or none has."""
    from lm_eval.api.instance import Instance

    if not rows[0]["choices"]:
        settings = {"until": [model.tokenizer.eos_token], "max_gen_toks": limit, "do_sample": False}
        asked = [Instance("generate_until", {}, (row["prompt"], settings), index) for index, row in enumerate(rows)]
        return list(model.generate_until(asked, disable_tqdm=True))
    pairs = [(row["prompt"], choice) for row in rows for choice in row["choices"]]
    asked = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    sums = iter([float(value) for value, _ in model.loglikelihood(asked, disable_tqdm=True)])
    return [[next(sums) for _ in row["choices"]] for row in rows]


if __name__ == "__main__":
    main()
