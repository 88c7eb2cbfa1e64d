"""What every section of the recipe is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from pydantic import BaseModel, ConfigDict


@final
@dataclass(frozen=True)
class Named:
    """Sections below names that the user chooses: `name` stands for any of them where keys are listed."""

    name: str
    section: type[Section]
    description: str


class Section(BaseModel):
    """A frozen part of the recipe. It refuses keys it does not know, and describes each key it has.

    `named` tells of the keys that it does not know and takes all the same.
    """

    named: ClassVar[Named | None] = None

    # "constants": an infinity among values of no declared type is written down as one, not as null.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")
