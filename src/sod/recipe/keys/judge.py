"""`reward.judge`."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field, field_validator, model_validator

from sod.recipe.keys.address import bare_address
from sod.recipe.keys.section import Section

JUDGE = "judge"
"""The name of the judge's part of a reward."""
KEY_VARIABLE = "SOD_JUDGE_API_KEY"


class JudgeSpec(Section):
    """A judge model behind an OpenAI-compatible url; how it is asked stands in `rewards/judge.py`."""

    url: str = Field(description=f"address up to /v1, e.g. http://127.0.0.1:8000/v1; its key: variable {KEY_VARIABLE}")
    model: str = Field(description="the model's name there")
    rubric: str = Field(
        "Is the assistant's final answer correct?", description="what is graded, in words for the judge"
    )
    weight: float = Field(1.0, description="factor on its grade, which is 0 to 1")
    best: int = Field(10, ge=1, description="the best score that it may give, 0 being the worst")
    show_truth: bool = Field(True, description="show it the task's ground truth, where there is one")
    request: dict[str, Any] = Field(
        default_factory=dict, description="fields of the request, beside or in place of ours; null leaves one out"
    )
    max_calls: int = Field(10_000, ge=1, description="requests that a run may send, repeated ones included")
    max_tokens: int = Field(20_000_000, ge=1, description="tokens of prompts and answers that a run may use")
    cache: str | None = Field(
        None, description="folder of answers, so that nothing is asked twice; null: ~/.cache/sod/judge"
    )
    concurrency: int = Field(8, ge=1, description="requests under way at a time")
    seconds: float = Field(120.0, gt=0, description="time limit of a request (seconds)")
    attempts: int = Field(4, ge=1, description="tries of a request before it is a fault")
    backoff_seconds: float = Field(1.0, ge=0, description="pause after the first failure, doubled after each (seconds)")
    backoff_max_seconds: float = Field(30.0, ge=0, description="longest pause between tries (seconds)")
    breaker_failures: int = Field(20, ge=1, description="failures in a row after which no request is sent for a while")
    breaker_seconds: float = Field(30.0, ge=0, description="how long that while is (seconds)")

    @field_validator("url")
    @classmethod
    def _an_address(cls, url: str) -> str:
        return bare_address(url, "reward.judge.url", f"the environment variable {KEY_VARIABLE}")

    @field_validator("weight")
    @classmethod
    def _a_factor(cls, weight: float) -> float:
        if not math.isfinite(weight) or weight == 0.0:
            raise ValueError(f"reward.judge.weight: {weight:g} makes no sense; take another, or judge: null")
        return weight

    @model_validator(mode="after")
    def _ours_to_say(self) -> JudgeSpec:
        for name in ("model", "messages", "stream", "n"):
            if name in self.request:
                raise ValueError(f"reward.judge.request: {name} is not to be set there; leave it out")
        return self
