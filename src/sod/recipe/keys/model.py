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


class LoraSpec(Section):
    """A low-rank adapter that is trained in place of the model's own weights. Needs the package peft."""

    rank: int = Field(16, ge=1, description="rank of the change of each weight matrix")
    alpha: int | None = Field(
        None, ge=1, description="the change is scaled by alpha / rank; null: twice the rank, a scale of 2"
    )
    targets: list[str] | None = Field(
        None,
        min_length=1,
        description="names, or last parts of them, of the linear layers that are changed; null: all of the decoder",
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="share of the adapter's inputs that are zeroed in an update's forward passes"
    )

    @property
    def scale_alpha(self) -> int:
        """`alpha`, or what it is by default."""
        return 2 * self.rank if self.alpha is None else self.alpha


class StudentSpec(ModelSpec):
    """The model that acts and is trained."""

    lora: LoraSpec | None = Field(None, description="train a low-rank adapter; null: train all weights")

    @property
    def whole(self) -> ModelSpec:
        """The same model with all of its weights."""
        return ModelSpec(**self.model_dump(exclude={"lora"}))
