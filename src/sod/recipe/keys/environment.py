"""`environment`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from sod.recipe.keys.code import Code
from sod.recipe.keys.section import Section

Interface = Literal["auto", "own", "trl", "gym", "openenv", "verifiers"]


class EnvironmentSpec(Section):
    """The world that episodes are played in; every key that is not one of these is an argument of `call`."""

    model_config = ConfigDict(extra="allow")

    call: Code = Field(
        description="what makes one: module:name, ./file.py:name beside the recipe, or a name of `sod env list`"
    )
    interface: Interface = Field(
        "auto",
        description="whose environments it is like: own, trl, gym (GEM too), openenv, verifiers; auto: as it looks",
    )
    tasks: int = Field(1000, ge=1, description="tasks where data.train is null and it offers none: one seed each")
    success: float = Field(1.0, description="an episode whose rewards add up to this or more counts as right")
    verified: bool = Field(
        False, description="reward.verifier judges what was said at the end too; false: its rewards alone count"
    )
    timeout_seconds: float = Field(60.0, gt=0, description="time limit of a reset or a step (seconds); then a fault")
    concurrency: int = Field(16, ge=1, description="environments that are at work at a time")

    @property
    def arguments(self) -> dict[str, Any]:
        """What `call` is called with."""
        return dict(self.model_extra or {})
