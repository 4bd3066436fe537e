"""A plan's rounds are those that each method would make."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.config.loading import parse_config
from tasks.contracts import BaseModelRef, Inputs, SplitRef, SubDatasetRef
from tasks.planning.simulation import imagined_rounds

NAMES = ("a", "b", "c", "d")
MODEL = BaseModelRef(
    directory="none", sha256="", trust_remote_code=False, attn_implementation=None,
    gradient_checkpointing=False, lora=None, seed=0, vocab_size=10, max_positions=None,
)  # fmt: skip
SPLIT = SplitRef(directory="none", num_rows=40, num_tokens=400, sha256="")
INPUTS = Inputs(
    model=MODEL,
    sub_datasets=tuple(
        SubDatasetRef(name=n, metric="loss", max_new_tokens=1, train=SPLIT, validation=SPLIT,
                      test_sha256=None, num_test_rows=0)
        for n in NAMES
    ),
)  # fmt: skip


def _rounds(leaves: bool, **search: Any) -> list[tuple[dict[str, int], float]]:
    """Return each round's rows an epoch of each sub-dataset, and its epochs; the first one leaves, or none."""
    config = parse_config(
        {
            "name": "test",
            "model": {"source": "none"},
            "mixture": {"sub_datasets": [{"name": name, "path": name} for name in NAMES]},
            "training": {"batch_size": 8},
            "search": {"max_epochs": 4, **search},
        },
        "test",
    )
    mixtures = imagined_rounds(config, INPUTS, NAMES, lambda active: active[0] if leaves else None)
    return [({part.name: part.rows_per_epoch for part in m.draws}, m.epochs) for m in mixtures]


ALL = dict.fromkeys(NAMES, 40)


@pytest.mark.parametrize("method", ["sft", "dynamix_sft", "ies"])
def test_one_roll_out_of_the_whole_budget(method: str) -> None:
    assert _rounds(True, method=method) == _rounds(False, method=method) == [(ALL, 4)]


def test_msft_drops_one_a_round_until_the_budget_is_spent() -> None:
    assert [list(rows) for rows, _ in _rounds(True)] == [list("abcd"), list("bcd"), list("cd")]
    assert _rounds(False) == [(ALL, 2), (ALL, 2)]


def test_forward_rehearses_who_left() -> None:
    rounds = _rounds(True, method="forward", compute_budget_epochs=1)
    assert rounds[0] == (ALL, 1)
    assert rounds[1] == ({"a": 4, "b": 40, "c": 40, "d": 40}, 1)
    assert rounds[2] == ({"a": 4, "b": 4, "c": 40, "d": 40}, 1)


def test_continual_sft_takes_one_after_another() -> None:
    assert _rounds(True, method="continual_sft") == [({name: 40}, 4) for name in NAMES]


def test_sro_probes_with_half_of_the_budget_and_then_leaves_one_out_at_its_optimum() -> None:
    without_a = {name: 40 for name in "bcd"}
    assert _rounds(True, method="sro_sft") == [(ALL, 2), (ALL, 1), (without_a, 1)]
    assert _rounds(True, method="soft_sro_sft") == [(ALL, 2), (ALL | {"a": 20}, 2)]
