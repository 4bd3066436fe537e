from __future__ import annotations

from tasks.config.method import SECTIONS, Options
from tasks.config.presets import PRESETS
from tasks.config.reference import README, reference
from tasks.config.schema import SearchConfig
from tasks.config.sub_datasets import model_in


def test_the_reference_is_that_of_the_models() -> None:
    assert README.read_text(encoding="utf-8") == reference(), "run python -m tasks.config.reference"


def test_the_reference_names_every_key() -> None:
    page = reference()
    models: list[type] = [SearchConfig, *SECTIONS.values()]
    for model in models:
        for key, field in model.model_fields.items():
            assert f"| `{key}` |" in page or key == "config_dir"
            inner = model_in(field.annotation)
            models += [inner] if inner is not None and inner is not Options and inner not in models else []
    for preset in PRESETS:
        assert f"| `{preset}` |" in page


def test_every_key_of_search_is_documented() -> None:
    for section in SECTIONS.values():
        options = type(section.model_fields["options"].default)
        for name, field in {**section.model_fields, **options.model_fields}.items():
            assert field.description or name in ("method", "options"), name
