"""`method`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from sod.recipe.keys.section import Section


class ScheduleSpec(Section):
    """A coefficient over the run. A plain number is short for a constant one."""

    schedule: Literal["constant", "linear", "cosine"] = Field("linear", description="shape of the way")
    start: float = Field(allow_inf_nan=False, description="value at step 1")
    end: float = Field(
        allow_inf_nan=False, description="value after `steps` steps, kept from then on; not of a constant"
    )
    steps: int | None = Field(None, ge=1, description="length of the way (optimizer steps); a constant has none")

    @model_validator(mode="before")
    @classmethod
    def _constant_end(cls, given: Any) -> Any:
        """A constant ends where it starts, without saying so."""
        if isinstance(given, Mapping) and given.get("schedule") == "constant" and "start" in given:
            return {"end": given["start"], **given}
        return given

    @model_validator(mode="after")
    def _consistent(self) -> ScheduleSpec:
        if self.schedule != "constant" and self.steps is None:
            raise ValueError(f"a {self.schedule} schedule needs steps: the length of its way from start to end")
        return self


class DivergenceSpec(Section):
    """A dense divergence in place of the sampled estimator; `divergence: jsd` is short for `{kind: jsd}`."""

    kind: Literal["forward_kl", "reverse_kl", "jsd"] = Field(
        description="KL(teacher || student), KL(student || teacher), or the generalised Jensen-Shannon divergence"
    )
    beta: float = Field(0.5, gt=0, lt=1, description="the teacher's share in the jsd's mixture; the KLs ignore it")
    top_k: int = Field(0, ge=0, description="over the k most probable tokens and one tail; 0: the full vocabulary")
    chosen_by: Literal["teacher", "student"] = Field(
        "teacher", description="whose k most probable tokens are taken; ignored with the full vocabulary"
    )


class AlignmentSpec(Section):
    """How a teacher of another tokenizer gives its signal; `alignment: chunk` is short for `{kind: chunk}`."""

    kind: Literal["chunk", "simct", "shared_tokens", "strict_topk", "gold", "uld", "bpm"] | None = Field(
        None, description="estimator over spans of equal bytes; null: simct of a teacher in this process, else chunk"
    )
    min_coverage: float = Field(
        0.5, ge=0, le=1, description="the run stops where less of what was said in a step can be matched (share)"
    )
    top_k: int = Field(16, ge=1, description="strict_topk: the student's most probable shared tokens that are compared")
    beta: float = Field(0.5, gt=0, lt=1, description="gold: the teacher's share in the jsd's mixture")
    matched: float | None = Field(
        None, ge=0, le=1, description="gold: weight of the shared tokens' part; null: their share of the teacher's"
    )
    unit_score: Literal["logp", "logit"] = Field(
        "logp", description="simct: a unit's score by log-probabilities, as the paper, or by logits, as its code"
    )


def _constant_schedule(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"schedule": "constant", "start": value, "end": value}
    return value


def _by_kind(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


CoefficientSpec = Annotated[ScheduleSpec, BeforeValidator(_constant_schedule)]
"""A number or a schedule."""


class MethodSpec(Section):
    """A preset of the objective and its knobs; knobs left out, or null, keep the preset's own value.

    The keys declared here go with every preset. All others are knobs, kept as they were given: `objective.presets`
    declares them, preset by preset, and `build.method` checks them, because `sod.recipe` does not import the objective.
    """

    model_config = ConfigDict(extra="allow")

    name: str = Field("sod", description="preset of the objective; `sod methods` lists them")
    loss_aggregation: Literal["token-mean", "seq-mean-token-mean", "turn-mean"] = Field(
        "token-mean",
        description="mean loss over a mini-batch's tokens, or over each trajectory's (turn's) and then over those",
    )
    divergence: Annotated[DivergenceSpec | None, BeforeValidator(_by_kind)] = Field(
        None, description="dense divergence for the teacher's part, a kind or a section; null: the sampled estimator"
    )
    alignment: Annotated[AlignmentSpec | None, BeforeValidator(_by_kind)] = Field(
        None, description="the teacher reads its own rendering; null: where its tokenizer is another"
    )
    clip_low: float = Field(0.2, gt=0, lt=1, description="the policy ratio is clipped below 1 - clip_low")
    clip_high: float = Field(0.28, gt=0, description="the policy ratio is clipped above 1 + clip_high")
    dual_clip: float | None = Field(
        None,
        gt=1,
        allow_inf_nan=False,
        description="policy ratio above which a token of negative advantage no longer counts more; null: no limit",
    )

    @model_validator(mode="before")
    @classmethod
    def _without_null_knobs(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return {key: value for key, value in given.items() if value is not None or key in cls.model_fields}

    @property
    def knobs(self) -> Mapping[str, Any]:
        """The preset's knobs as they were given: plain YAML values, not yet checked."""
        return dict(self.__pydantic_extra__ or {})


def method_by_name(value: Any) -> Any:
    """`sod` as `{name: sod}`; anything else as it is."""
    return {"name": value} if isinstance(value, str) else value
