"""`sft`."""

from __future__ import annotations

from pydantic import Field

from sod.recipe.keys.optim import OptimSpec
from sod.recipe.keys.section import Section


class SftSpec(Section):
    """Supervised fine-tuning on `data.sft`."""

    steps: int = Field(200, ge=1, description="length of the run (optimizer steps)")
    batch_size: int = Field(32, ge=1, description="conversations per step")
    max_tokens: int = Field(4096, ge=8, description="longest conversation (tokens); longer ones are skipped, counted")
    checkpoint_every: int = Field(200, ge=1, description="steps between checkpoints")
    optim: OptimSpec = Field(OptimSpec(lr=1e-5), description="the optimizer of `sod sft`")
