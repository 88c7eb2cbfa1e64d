"""Time, tokens and arithmetic of a training step's phases, as contexts around the code that they measure."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, final

from sod.models.meter import Cost, Meter
from sod.objective.batch import TokenBatch

OPTIMIZER_PASSES = 7  # over float32: AdamW reads weight, gradient and two moments, writes all but the gradient


@final
@dataclass(frozen=True)
class StepMeter:
    """The phases of a step of one student, each a context around the work; nothing is counted where `meter` is off."""

    meter: Meter
    cost: Cost
    recompute: bool

    @classmethod
    def of(cls, meter: Meter, student: Any, recompute: bool) -> StepMeter:
        """For a Hugging Face causal LM."""
        return cls(meter, Cost.of(student), recompute)

    def old(self, batch: TokenBatch) -> AbstractContextManager[None]:
        """The forward that scores the old log-probabilities."""
        return self.meter.phase("old", int(batch.length_B.sum()), self.cost.scoring(batch))

    def forward(self, micro: TokenBatch) -> AbstractContextManager[None]:
        """The forward of a micro-batch, up to its loss."""
        return self.meter.phase("forward", int(micro.length_B.sum()), self.cost.scoring(micro), self.cost.bytes)

    def backward(self, micro: TokenBatch) -> AbstractContextManager[None]:
        """The backward pass of a micro-batch, from its loss to its gradients."""
        flop = self.cost.backward(micro, self.recompute)
        return self.meter.phase("backward", int(micro.length_B.sum()), flop, 2 * self.cost.bytes)

    def optimizer(self) -> AbstractContextManager[None]:
        """One update of the weights."""
        return self.meter.phase("optimizer", moved=OPTIMIZER_PASSES * 4 * self.cost.trained)
