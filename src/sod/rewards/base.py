"""What a verifier is: episodes in, one verdict or fault each, in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sod.records import Episode, Fault, Verdict


class Verifier(Protocol):
    """Says whether episodes are right. Called from one thread at a time or from several."""

    def verify(self, episodes: Sequence[Episode]) -> list[Verdict | Fault]:
        """One entry per episode, in the order given. Every episode has at least one turn.

        Whatever the model wrote gives a `Verdict`; a failure of the verifier itself is a `Fault`.
        Raises SodError for a task that cannot be verified (its tests are not readable).
        """
        ...

    def close(self) -> None:
        """End what was started. Safe to call twice."""
        ...


def verified_text(episode: Episode) -> str:
    """The text in which every verifier looks for the answer: all of the final turn, what was thought included.

    The only place that decides so: an answer that stands in a thought alone counts.
    """
    return episode.trajectory.turns[-1].text
