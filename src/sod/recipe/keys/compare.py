"""`compare`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from sod.recipe.keys.data import Source, refuse_unnamed
from sod.recipe.keys.section import Section


class CompareSpec(Section):
    """How `sod compare` finds each method's learning rate, by short trials, and what it judges the methods on."""

    lrs: list[Annotated[float, Field(gt=0)]] | None = Field(
        None,
        min_length=1,
        description="learning rates to try with every method; a single one is taken untried; null: optim.lr",
    )
    tuning_steps: int = Field(50, ge=1, description="length of a trial (optimizer steps)")
    tuning_seed: int = Field(1_000, ge=0, description="seed of the trials; it takes no part in the comparison")
    test: Source | None = Field(
        None,
        description="tasks of the final figures where there is no world, or environment@SPLIT; null: data.validation",
    )

    @field_validator("test", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        refuse_unnamed("compare.test", value)
        return value
