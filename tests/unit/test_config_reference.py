from __future__ import annotations

from tests.config_reference import REFERENCE, reference


def test_the_written_reference_is_that_of_the_models() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == reference(), "run python -m tests.config_reference"


def test_the_reference_names_every_part_of_a_configuration() -> None:
    page = reference()
    for key in ("learning_rate", "compute_budget_epochs", "sub_datasets", "carve", "every_steps", "ema"):
        assert f"`{key}`" in page, key
