"""`compare`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sod.recipe.keys.section import Section


class CompareSpec(Section):
    """How `sod compare` finds each method's learning rate: the one of `lrs` that is best on validation tasks.

    `tuning_steps` is the length of each trial, `tuning_seed` a seed that takes no part in the comparison.
    """

    lrs: list[Annotated[float, Field(gt=0)]] = Field([1e-6], min_length=1)
    tuning_steps: int = Field(50, ge=1)
    tuning_seed: int = Field(1_000, ge=0)
