"""`optim`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sod.recipe.keys.section import Section


class OptimSpec(Section):
    """AdamW, its learning rate over the run, and how a batch is cut into updates."""

    lr: float = Field(1e-6, gt=0, description="peak learning rate")
    betas: tuple[float, float] = Field((0.9, 0.95), description="AdamW's decay rates of both moments")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled weight decay")
    clip_grad: float = Field(1.0, gt=0, description="largest norm of the gradient; longer ones are scaled down to it")
    warmup_steps: int = Field(0, ge=0, description="linear warm-up to lr (optimizer steps)")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="learning rate after the warm-up: constant, or falling to 0 at the end of the run"
    )
    micro_batch_tokens: int = Field(
        2048, ge=1, description="tokens per forward and backward pass, padding included; bounds memory, not the result"
    )
    mini_batch_prompts: int | None = Field(
        None, ge=1, description="groups per update; null: the whole batch makes one update; SFT ignores it"
    )
    recompute: bool = Field(
        False, description="recompute the layers' activations in the backward pass: less memory, slower"
    )
    compile: bool | None = Field(
        None,
        description="fuse layers and projection by torch.compile (seconds at the start); null: on CUDA, from 50M",
    )
