"""Base class and common types of configuration sections."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Text = Annotated[str, Field(min_length=1)]


class Settings(BaseModel):
    """Base class for configuration sections: frozen, unknown keys and infinite numbers forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def is_changed(settings: Settings, field: str) -> bool:
    """Return whether a value differs from its default, given or not: a resolved configuration gives every field."""
    return bool(getattr(settings, field) != type(settings).model_fields[field].default)
