"""The teacher interface."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from sod.objective.batch import TokenBatch


class Teacher(Protocol):
    """Scores tokens that somebody else sampled."""

    def score(self, batch: TokenBatch) -> Tensor:
        """Log-probabilities (nats, float32, B x T) of the batch's action tokens; 0 at context."""
        ...
