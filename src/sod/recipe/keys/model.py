"""`student` and `teacher`."""

from __future__ import annotations

from typing import Literal

from sod.recipe.keys.section import Section


class ModelSpec(Section):
    """A model directory or hub id, and the precision it runs in."""

    path: str
    dtype: Literal["float32", "bfloat16"] = "float32"
