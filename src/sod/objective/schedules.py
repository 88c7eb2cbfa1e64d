"""Coefficients that change over a run: constant, linear or cosine, as functions of the optimizer step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

ScheduleKind = Literal["constant", "linear", "cosine"]


@final
@dataclass(frozen=True)
class Schedule:
    """From `start` at step 1 towards `end`, reached after `steps` steps and kept. Constant ignores both.

    Raises ValueError for a kind that does not exist, `steps` below 1, and values that are not finite.
    """

    kind: ScheduleKind
    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        if self.kind not in ("constant", "linear", "cosine"):
            raise ValueError(f"schedule {self.kind!r} does not exist; constant, linear and cosine do")
        if self.steps < 1:
            raise ValueError(f"a schedule needs at least one step, got {self.steps}")
        if not (math.isfinite(self.start) and math.isfinite(self.end)):
            raise ValueError(f"a schedule goes between finite values, got {self.start} and {self.end}")

    def __call__(self, step: int) -> float:
        """The coefficient at optimizer step `step` (from 1)."""
        if self.kind == "constant":
            return self.start
        progress = min(max(step - 1, 0) / self.steps, 1.0)
        if self.kind == "cosine":
            progress = 0.5 * (1.0 - math.cos(math.pi * progress))
        return self.start + (self.end - self.start) * progress

    @property
    def never(self) -> bool:
        """Whether the coefficient is 0 at every step."""
        return self.start == 0.0 and (self.kind == "constant" or self.end == 0.0)


def constant(value: float) -> Schedule:
    """The same coefficient at every step."""
    return Schedule("constant", value, value, 1)


def linear(start: float, end: float, steps: int) -> Schedule:
    """A straight line from `start` to `end` over `steps` steps."""
    return Schedule("linear", start, end, steps)
