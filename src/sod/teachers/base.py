"""The teacher interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

from sod.objective.batch import TokenBatch
from sod.objective.scores import Level, ScoreNeed, TeacherScores
from sod.records import Episode


@final
@dataclass(frozen=True)
class Offer:
    """What a teacher can give: how much of its distribution, of how many tokens at most, at which temperatures.

    `largest_k` and `temperatures` are None where there is no limit; `entropy` says whether it knows that too.
    """

    level: Level
    largest_k: int | None = None
    temperatures: frozenset[float] | None = None
    entropy: bool = True


class Teacher(Protocol):
    """Scores tokens that somebody else sampled."""

    @property
    def offers(self) -> Offer:
        """What may be asked of it."""
        ...

    def score(self, batch: TokenBatch, episodes: Sequence[Episode], need: ScoreNeed) -> TeacherScores:
        """Log-probabilities (nats) of the batch's action tokens, and what else is needed.

        `episodes` are the batch's trajectories with their tasks, row by row, for a teacher that reads the messages in
        a rendering of its own; one that reads the batch's tokens may be given none. A trajectory that could not be
        scored by no fault of the model is a `Fault` in the scores. Raises ValueError for more than it offers.
        """
        ...

    def state(self) -> Any:
        """What a checkpoint must keep of it, as tensors and plain values; None where there is nothing."""
        ...

    def load(self, state: Any) -> None:
        """Restore what `state` gave, bit for bit."""
        ...


class LocalModel(Teacher, Protocol):
    """A teacher in this process: it gives its whole distribution, and may follow the student.

    Only losses over the full vocabulary, self-teachers and teachers that play episodes may ask for one.
    """

    @property
    def model(self) -> Any:
        """The causal LM."""
        ...

    def follow(self, student: Any, fraction: float) -> None:
        """Move the weights by `fraction` of the way to the student's; 1 makes a copy."""
        ...
