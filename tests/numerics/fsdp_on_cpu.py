"""Run the training worker under FSDP2 on CPU processes: `accelerate launch … -m tests.numerics.fsdp_on_cpu SPEC`.

Accelerate shards on accelerators only, and trains CPU processes data-parallel whatever its configuration says. All that
is changed here is that choice: sharding, gathering and the collectives are torch's own, over gloo.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

# Asked for the CPU, Accelerate would not come to the choice below.
os.environ |= {"ACCELERATE_USE_CPU": "false", "ACCELERATE_TORCH_DEVICE": "cpu"}

from accelerate.state import PartialState
from accelerate.utils import DistributedType

from tasks.workers.supervisor import run_worker
from tasks.workers.train import train


def _sharded(self: PartialState, *args: Any, **kwargs: Any) -> tuple[str, DistributedType]:
    return "gloo", DistributedType.MULTI_GPU


PartialState._prepare_backend = _sharded  # type: ignore[method-assign]


def train_sharded(spec: Path) -> None:
    """Run the roll-out, and make sure that the processes shared its weights."""
    train(spec)
    assert PartialState().distributed_type is DistributedType.FSDP


if __name__ == "__main__":
    sys.exit(run_worker(train_sharded, Path(sys.argv[1])))
