"""A teacher in this process: a frozen causal LM that shares the student's tokenizer."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor

from sod.models.meter import Cost, Meter
from sod.models.score import score
from sod.objective.batch import TokenBatch


@final
class LocalTeacher:
    """Scores with a Hugging Face causal LM, chunked over the vocabulary projection."""

    def __init__(
        self, model: Any, micro_batch_tokens: int, temperature: float = 1.0, meter: Meter | None = None
    ) -> None:
        """`temperature` must be the student's, or the gap compares two different things."""
        self.model = model.requires_grad_(False).eval()
        self.micro_batch_tokens = micro_batch_tokens
        self.temperature = temperature
        self._meter = meter or Meter()
        self._cost = Cost.of(model)

    def score(self, batch: TokenBatch) -> Tensor:
        """See `Teacher.score`."""
        with self._meter.phase("teacher", int(batch.length_B.sum()), self._cost.scoring(batch), self._cost.bytes):
            return score(self.model, batch, self.micro_batch_tokens, self.temperature)
