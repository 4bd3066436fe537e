"""Export the adapters of a checkpoint in the format of peft: `python -m tasks.workers.export_adapter SPEC`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tasks.contracts import BaseModelRef
from tasks.workers.model import load_base, load_tokenizer, load_weights, scored_file
from tasks.workers.supervisor import run_worker


def export_adapter(spec_path: Path) -> None:
    """Save the adapters of `checkpoint` and the tokenizer in `directory`, with `base` as the name of their model."""
    spec = json.loads(spec_path.read_text())
    base = BaseModelRef.model_validate(spec["model"])
    model = load_base(base)
    checkpoint = Path(spec["checkpoint"])
    load_weights(model, checkpoint, scored_file(checkpoint))
    for adapter in model.peft_config.values():
        adapter.base_model_name_or_path = spec["base"]
    model.save_pretrained(spec["directory"])
    load_tokenizer(base).save_pretrained(spec["directory"])


if __name__ == "__main__":
    sys.exit(run_worker(export_adapter, Path(sys.argv[1])))
