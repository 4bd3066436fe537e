"""What every section of the configuration shares: frozen, nothing unknown, no true or false for a number."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Text = Annotated[str, Field(min_length=1)]


class Settings(BaseModel):
    """Base of every section: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true where a number is wanted, which pydantic reads as 1."""
        assert info.field_name is not None
        if _takes_numbers(cls.model_fields[info.field_name].annotation) and _holds_truth(value):
            raise ValueError(f"wanted a number; got {value!r:.80}")
        return value


def is_changed(settings: Settings, field: str) -> bool:
    """Say whether a value is not its default; a resolved configuration names every field, so "was given" won't do."""
    return bool(getattr(settings, field) != type(settings).model_fields[field].default)


def _takes_numbers(annotation: Any) -> bool:
    return annotation in (int, float) or any(_takes_numbers(part) for part in get_args(annotation))


def _holds_truth(value: Any) -> bool:
    items = value.values() if isinstance(value, dict) else value
    is_list = isinstance(value, dict | list | tuple)
    return isinstance(value, bool) or (is_list and any(isinstance(item, bool) for item in items))
