"""`sft`."""

from __future__ import annotations

from pydantic import Field

from sod.recipe.keys.optim import OptimSpec
from sod.recipe.keys.section import Section


class SftSpec(Section):
    """Supervised fine-tuning on `data.sft`."""

    steps: int = Field(200, ge=1)
    batch_size: int = Field(32, ge=1)
    max_tokens: int = Field(4096, ge=8)
    checkpoint_every: int = Field(200, ge=1)
    optim: OptimSpec = OptimSpec(lr=1e-5)
