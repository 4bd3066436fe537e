"""Print the devices that torch finds as JSON: `python -m tasks.workers.describe_devices`."""

from __future__ import annotations

import json

import torch


def describe() -> dict[str, object]:
    """Return torch's version, and the name and memory of each accelerator."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    count = torch.accelerator.device_count() if found is not None else 0
    kind = found.type if found is not None else "cpu"
    names = [torch.cuda.get_device_name(index) if kind == "cuda" else kind for index in range(count)]
    return {"torch": torch.__version__, "kind": kind, "devices": names, "threads": torch.get_num_threads()}


if __name__ == "__main__":
    print(json.dumps(describe()))
