"""`train`."""

from __future__ import annotations

from pydantic import Field

from sod.recipe.keys.section import Section


class TrainSpec(Section):
    """The length of the run and what it leaves behind."""

    steps: int = Field(100, ge=1, description="length of the run (steps; each plays rollout.prompts groups)")
    checkpoint_every: int = Field(20, ge=1, description="steps between checkpoints; the last step always has one")
    keep_checkpoints: int = Field(2, ge=1, description="how many of the newest checkpoints are kept, in SFT too")
    evaluate_every: int = Field(0, ge=0, description="steps between evaluations on data.validation; 0: never")
    trajectories_every: int = Field(1, ge=0, description="steps between written trajectories; 0: never")
    profile: bool = Field(False, description="measure where the time goes and write profile.json")
