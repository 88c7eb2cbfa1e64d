"""The teacher interface."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from sod.objective.batch import TokenBatch


class Teacher(Protocol):
    """Scores tokens that somebody else sampled."""

    def score(self, batch: TokenBatch) -> Tensor:
        """Log-probabilities (nats, float32, B x T) of the batch's action tokens; 0 at context."""
        ...


class LocalModel(Teacher, Protocol):
    """A teacher in this process: it gives its whole distribution, and may follow the student."""

    @property
    def model(self) -> Any:
        """The causal LM, for dense divergences."""
        ...

    def score_with_confidence(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """As `score`, and the highest probability at the same positions (float32, B x T; 0 at context)."""
        ...

    def follow(self, student: Any, fraction: float) -> None:
        """Move the weights by `fraction` of the way to the student's; 1 makes a copy."""
        ...
