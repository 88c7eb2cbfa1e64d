"""What every section of the recipe is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen part of the recipe. It refuses keys it does not know, and describes each key it has."""

    # "constants": an infinity among values of no declared type is written down as one, not as null.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")
