"""A teacher in this process: a causal LM that shares the student's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from sod.models.device import moved
from sod.models.lora import own_weights
from sod.models.meter import Cost, Meter
from sod.models.ranks import ALONE, Ranks, refuse_other_weights
from sod.models.score import teacher_scores
from sod.models.sequence import cut_rows
from sod.models.sharded import whole_tensor
from sod.objective.batch import TokenBatch
from sod.objective.scores import ScoreNeed, TeacherScores
from sod.records import Episode
from sod.teachers.base import Offer


@final
class LocalTeacher:
    """Scores with a Hugging Face causal LM, chunked over the vocabulary projection.

    Offers its whole distribution at any temperature. The model is frozen, put into evaluation mode and changed in place
    by `follow`: nobody else may train it. Of one with an adapter that alone is its own, and follows the student's: the
    average is that of the adapter's two factors, not of their product (our choice: no paper says which).
    """

    offers: ClassVar[Offer] = Offer("full")

    def __init__(
        self,
        model: Any,
        micro_batch_tokens: int,
        temperature: float = 1.0,
        meter: Meter | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """`temperature` must be the student's, or the gap compares two different things.

        With several `ranks` each has the whole model, scores rows of its own, and gets the scores of all. A team of
        them shares its rows. Raises SodError where those of this model cannot be cut.
        """
        self.model = model.requires_grad_(False).eval()
        refuse_other_weights(self.model, ranks, "teacher")
        cut_rows(self.model, ranks, "teacher")
        self.micro_batch_tokens = micro_batch_tokens
        self.temperature = temperature
        self._meter = meter or Meter()
        self._cost = Cost.of(model)
        self._ranks = ranks
        self._average: list[Tensor] | None = None

    def score(self, batch: TokenBatch, episodes: Sequence[Episode], need: ScoreNeed) -> TeacherScores:
        """See `Teacher.score`. Reads the batch's tokens; `episodes` are not looked at."""
        with self._meter.phase("teacher", int(batch.length_B.sum()), self._cost.scoring(batch), self._cost.bytes):
            return teacher_scores(self.model, batch, self.micro_batch_tokens, self.temperature, need, self._ranks)

    def follow(self, student: Any, fraction: float) -> None:
        """See `LocalModel.follow`. The average is kept in float32, whatever the model's precision.

        Raises ValueError for a fraction outside (0, 1] and where the two models differ in shape.
        """
        if not 0.0 < fraction <= 1.0:
            raise ValueError(f"a teacher follows by a fraction in (0, 1], got {fraction}")
        mine, theirs = own_weights(self.model), own_weights(student)
        if [p.shape for p in mine] != [p.shape for p in theirs]:
            raise ValueError("a teacher can only follow a student of its own shape")
        with torch.no_grad():
            if self._average is None:
                self._average = [p.detach().float().clone() for p in mine]
            for average, weight, target in zip(self._average, mine, theirs, strict=True):
                average.lerp_(moved(whole_tensor(target), average.device).float(), fraction)
                weight.copy_(average)

    def state(self) -> list[Tensor] | None:
        """The averaged weights in float32, for a checkpoint; None for a teacher that has not moved."""
        return self._average

    def load(self, state: list[Tensor] | None) -> None:
        """Restore `state`, bit for bit. Raises ValueError, with nothing changed, where it is of another model."""
        if state is None:
            return
        shapes = [weight.shape for weight in own_weights(self.model)]
        if not all(isinstance(saved, Tensor) and saved.dtype == torch.float32 for saved in state):
            raise ValueError("the averaged weights are no float32 tensors")
        if [saved.shape for saved in state] != shapes:
            raise ValueError("the averaged weights are of another model")
        with torch.no_grad():
            self._average = []
            for weight, saved in zip(own_weights(self.model), state, strict=True):
                self._average.append(torch.empty_like(weight, dtype=torch.float32).copy_(saved))
                weight.copy_(self._average[-1])
