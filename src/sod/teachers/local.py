"""A teacher in this process: a frozen causal LM that shares the student's tokenizer."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor

from sod.models.score import score
from sod.objective.batch import TokenBatch


@final
class LocalTeacher:
    """Scores with a Hugging Face causal LM, chunked over the vocabulary projection."""

    def __init__(self, model: Any, micro_batch_tokens: int, temperature: float = 1.0) -> None:
        """`temperature` must be the student's, or the gap compares two different things."""
        self.model = model.requires_grad_(False).eval()
        self.micro_batch_tokens = micro_batch_tokens
        self.temperature = temperature

    def score(self, batch: TokenBatch) -> Tensor:
        """See `Teacher.score`."""
        return score(self.model, batch, self.micro_batch_tokens, self.temperature)
