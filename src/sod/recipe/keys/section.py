"""What every section of the recipe is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen part of the recipe that knows its keys and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)
