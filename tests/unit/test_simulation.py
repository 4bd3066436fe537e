"""The rounds of a simulated search are those that its method makes."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.config.loading import parse_config
from tasks.contracts import BaseModelRef, Inputs, SplitRef, SubDatasetRef
from tasks.planning.simulation import simulate

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


def _rounds(overfits: bool, **search: Any) -> list[tuple[dict[str, int], float]]:
    """Return each round's rows per epoch and epochs; in each round the first active sub-dataset overfits, or none."""
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
    mixtures = simulate(config, INPUTS, NAMES, lambda left: left[0] if overfits else None)
    return [(m.rows_per_epoch, m.epochs) for m in mixtures]


ALL = dict.fromkeys(NAMES, 40)


@pytest.mark.parametrize("method", ["sft", "dynamix_sft", "ies"])
def test_methods_without_exclusion_make_one_roll_out(method: str) -> None:
    assert _rounds(True, method=method) == _rounds(False, method=method) == [(ALL, 4)]


def test_msft_excludes_one_a_round_within_the_budget() -> None:
    assert [list(rows) for rows, _ in _rounds(True)] == [list("abcd"), list("bcd"), list("cd")]
    assert _rounds(False) == [(ALL, 2), (ALL, 2)]


def test_forward_rehearses_excluded_sub_datasets() -> None:
    rounds = _rounds(True, method="forward", compute_budget_epochs=1)
    assert rounds[0] == (ALL, 1)
    assert rounds[1] == ({"a": 4, "b": 40, "c": 40, "d": 40}, 1)
    assert rounds[2] == ({"a": 4, "b": 4, "c": 40, "d": 40}, 1)


def test_continual_sft_trains_one_after_another() -> None:
    assert _rounds(True, method="continual_sft") == [({name: 40}, 4) for name in NAMES]


def test_sro_probes_with_half_of_the_budget() -> None:
    without_a = {name: 40 for name in "bcd"}
    assert _rounds(True, method="sro_sft") == [(ALL, 2), (ALL, 1), (without_a, 1)]
    assert _rounds(True, method="soft_sro_sft") == [(ALL, 2), (ALL | {"a": 20}, 2)]


@pytest.mark.parametrize("thresholds", [{"min_delta": 0.9}, {"min_delta": 0.9, "options": {"loss_guard": 9.0}}])
def test_synthetic_curves_pass_every_threshold(thresholds: dict[str, Any]) -> None:
    assert _rounds(True, **thresholds) == _rounds(True)


def test_as_many_overfit_as_a_round_may_exclude() -> None:
    rounds = _rounds(True, exclude_per_round=2)
    assert [list(rows) for rows, _ in rounds] == [list("abcd"), list("cd")]
