"""`evaluation`."""

from __future__ import annotations

from pydantic import Field

from sod.recipe.keys.section import Section


class EvaluationSpec(Section):
    """How `sod eval` and the evaluations during training sample; `tasks: 0` takes all there are."""

    k: int = Field(4, ge=1)
    tasks: int = Field(64, ge=0)
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
