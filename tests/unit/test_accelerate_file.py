"""An unusable Accelerate config file is refused when the configuration is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.config.loading import load_config
from tasks.errors import ConfigError

SEARCH = """
name: tiny
model: {source: somewhere}
mixture: {sub_datasets: [{name: max, synthetic: {skill: max}}]}
search: {max_epochs: 4}
"""
ONE_MACHINE = "distributed_type: MULTI_GPU\nnum_processes: 2\n"


def load(tmp_path: Path, accelerate: str, *overrides: str) -> list[str]:
    """Return the problems of a search with this Accelerate file."""
    (tmp_path / "search.yaml").write_text(SEARCH)
    (tmp_path / "accelerate.yaml").write_text(accelerate)
    try:
        load_config(str(tmp_path / "search.yaml"), ["training.accelerate_config=accelerate.yaml", *overrides])
    except ConfigError as error:
        return list(error.problems)
    return []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (ONE_MACHINE + "num_machines: 2\n", "got num_machines 2 beside training.machines 1; write the same in both"),
        ("distributed_type: DEEPSPEED\nnum_processes: 2\n", "got deepspeed; expected FSDP"),
        (ONE_MACHINE + "deepspeed_config: {zero_stage: 3}\n", "got deepspeed"),
        ("distributed_type: MEGATRON_LM\n", "got megatron_lm"),
        ("distributed_type: FSDP\nnum_processes: 2\n", "write fsdp_version: 2 under fsdp_config"),
        (ONE_MACHINE + "mixed_precision: bf16\n", "got mixed_precision bf16 beside training.precision fp32"),
        (ONE_MACHINE + "mixed_precision: fp16\n", "got mixed_precision fp16 beside training.precision fp32"),
        (ONE_MACHINE + "compute_environment: AMAZON_SAGEMAKER\n", "expected LOCAL_MACHINE"),
        ("num_processes: 2\n", "got no distributed_type"),
        ("- a\n- b\n", "got a list; expected keys and values"),
        ("a: [", "is not YAML"),
    ],
)
def test_an_unusable_accelerate_file_is_refused_with_a_fix(tmp_path: Path, text: str, told: str) -> None:
    (problem,) = load(tmp_path, text)
    assert problem.startswith("training.accelerate_config: ")
    assert told in problem


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("written", ["", "mixed_precision: 'no'\n", "mixed_precision: no\n"])
def test_a_file_without_precision_uses_that_of_the_search(tmp_path: Path, precision: str, written: str) -> None:
    assert load(tmp_path, ONE_MACHINE + written, f"training.precision={precision}") == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "got num_machines 1 beside training.machines 2"),
        ("num_machines: 2\n", ""),
        ("num_machines: 2\nnum_processes: 3\n", "got num_processes 3 on 2 machines; expected a multiple of 2"),
    ],
)
def test_a_file_names_the_machines_of_the_search(tmp_path: Path, text: str, told: str) -> None:
    file = "distributed_type: MULTI_GPU\n" + ("" if "num_processes" in text else "num_processes: 2\n") + text
    problems = load(tmp_path, file, "training.machines=2")
    assert [told in problem for problem in problems] == [True] * bool(told)


def test_a_file_may_repeat_the_precision_of_the_search(tmp_path: Path) -> None:
    text = ONE_MACHINE + "mixed_precision: bf16\nnum_machines: 1\ndeepspeed_config: {}\n"
    assert load(tmp_path, text, "training.precision=bf16") == []
