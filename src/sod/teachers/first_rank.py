"""A teacher that one process asks for all: rank 0 of a run over several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from sod.models.ranks import Ranks
from sod.objective.batch import TokenBatch
from sod.objective.scores import ScoreNeed, TeacherScores
from sod.records import Episode
from sod.teachers.base import Offer, Teacher


@final
class FirstRanksTeacher:
    """A served teacher as every rank sees it: rank 0 asks, and all get the scores, or the same error.

    `inner` is None on other ranks than 0; its state is rank 0's.
    """

    def __init__(self, inner: Teacher | None, offers: Offer, ranks: Ranks) -> None:
        self._inner = inner
        self._offers = offers
        self._ranks = ranks

    @property
    def offers(self) -> Offer:
        """What the teacher of rank 0 offers."""
        return self._offers

    def score(self, batch: TokenBatch, episodes: Sequence[Episode], need: ScoreNeed) -> TeacherScores:
        """See `Teacher.score`; all ranks call it with the same batch."""

        def asked() -> TeacherScores:
            if self._inner is None:
                raise ValueError("rank 0 has no teacher to ask")
            return self._inner.score(batch, episodes, need)

        return self._ranks.shared(asked)

    def state(self) -> Any:
        """See `Teacher.state`."""
        return None if self._inner is None else self._inner.state()

    def load(self, state: Any) -> None:
        """See `Teacher.load`."""
        if self._inner is not None:
            self._inner.load(state)
