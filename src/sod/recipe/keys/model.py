"""`student` and `teacher`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sod.recipe.keys.section import Section


class ModelSpec(Section):
    """A model and the precision it runs in."""

    path: str = Field(description="model directory, run directory (its newest checkpoint) or Hugging Face hub id")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="precision of weights and forward passes; the optimizer always works in float32"
    )
    device: str = Field(
        "auto",
        description="cpu, cuda or cuda:N; auto: cuda where there is one, else cpu; the teacher's: where the student is",
    )
