"""What every table of pilot.toml has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of pilot.toml; an unknown key is an error, not a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)
