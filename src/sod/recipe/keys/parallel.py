"""`parallel`."""

from __future__ import annotations

from pydantic import Field

from sod.recipe.keys.section import Section


class ParallelSpec(Section):
    """The processes that train together."""

    shards: int = Field(
        1, ge=1, description="processes, one for each GPU, that the student's weights and moments are spread over"
    )
