"""`train`."""

from __future__ import annotations

from pydantic import Field

from sod.recipe.keys.section import Section


class TrainSpec(Section):
    """The length of the run and what it leaves behind; with `profile` also `profile.json`, where the time went."""

    steps: int = Field(100, ge=1)
    checkpoint_every: int = Field(20, ge=1)
    keep_checkpoints: int = Field(2, ge=1)
    evaluate_every: int = Field(0, ge=0)
    trajectories_every: int = Field(1, ge=0)
    profile: bool = False
