"""`method`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from sod.recipe.keys.section import Section


class ScheduleSpec(Section):
    """A coefficient over the run: from `start` at step 1 to `end` after `steps` steps. A number is a constant."""

    schedule: Literal["constant", "linear", "cosine"] = "linear"
    start: float = Field(allow_inf_nan=False)
    end: float = Field(allow_inf_nan=False)
    steps: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> ScheduleSpec:
        if self.schedule != "constant" and self.steps is None:
            raise ValueError(f"a {self.schedule} schedule needs steps: the length of its way from start to end")
        return self


class DivergenceSpec(Section):
    """A dense divergence in place of the sampled estimator; `top_k` 0 takes the full vocabulary.

    `divergence: jsd` is short for `divergence: {kind: jsd}`.
    """

    kind: Literal["forward_kl", "reverse_kl", "jsd"]
    beta: float = Field(0.5, gt=0, lt=1)
    top_k: int = Field(0, ge=0)
    chosen_by: Literal["teacher", "student"] = "teacher"


def _constant_schedule(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"schedule": "constant", "start": value, "end": value}
    return value


def _divergence_by_name(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


Coefficient = Annotated[ScheduleSpec | None, BeforeValidator(_constant_schedule)]


class MethodSpec(Section):
    """A preset of the objective (`sod methods` lists them) and its knobs; those left out keep the preset's own value.

    `loss_aggregation`, `divergence` and the clip range go with every preset.
    """

    name: str = "sod"
    kappa: Coefficient = None
    rho: Coefficient = None
    delta: float | None = Field(None, ge=0)
    epsilon: float | None = Field(None, gt=0, allow_inf_nan=False)
    decay: float | None = Field(None, ge=0, le=1)
    threshold: float | None = Field(None, ge=0, allow_inf_nan=False)
    beta_min: float | None = Field(None, ge=0, allow_inf_nan=False)
    beta_max: float | None = Field(None, ge=0, allow_inf_nan=False)
    gamma: float | None = Field(None, allow_inf_nan=False)
    start: int | None = Field(None, ge=1)
    every: int | None = Field(None, ge=1)
    teacher_rule: Literal["frozen", "every", "ema"] | None = None
    teacher_every: int | None = Field(None, ge=1)
    teacher_decay: float | None = Field(None, ge=0, lt=1)
    loss_aggregation: Literal["token", "sequence", "turn"] = "token"
    divergence: Annotated[DivergenceSpec | None, BeforeValidator(_divergence_by_name)] = None
    clip_low: float = Field(0.2, gt=0, lt=1)
    clip_high: float = Field(0.28, gt=0)


def method_by_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value
