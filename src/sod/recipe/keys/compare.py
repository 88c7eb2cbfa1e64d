"""`compare`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sod.recipe.keys.section import Section


class CompareSpec(Section):
    """How `sod compare` finds each method's learning rate: by short trials, judged on validation tasks."""

    lrs: list[Annotated[float, Field(gt=0)]] = Field(
        [1e-6], min_length=1, description="learning rates to try with every method; a single one is taken untried"
    )
    tuning_steps: int = Field(50, ge=1, description="length of a trial (optimizer steps)")
    tuning_seed: int = Field(1_000, ge=0, description="seed of the trials; it takes no part in the comparison")
