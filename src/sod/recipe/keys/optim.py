"""`optim`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sod.recipe.keys.section import Section


class OptimSpec(Section):
    """AdamW. `mini_batch_prompts` groups make one update; null makes the whole batch one.

    `recompute` keeps no activations of the layers but computes them again for the backward pass: slower, less memory.
    """

    lr: float = Field(1e-6, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.0, ge=0)
    clip_grad: float = Field(1.0, gt=0)
    warmup_steps: int = Field(0, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    micro_batch_tokens: int = Field(2048, ge=1)
    mini_batch_prompts: int | None = Field(None, ge=1)
    recompute: bool = False
