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

    def votes(self, groups: Sequence[Sequence[Episode]]) -> list[list[str | None]]:
        """The verified episodes' answers for majority votes, group by group (a group is of one task).

        Equal answers get one spelling, right or wrong; None is no answer. What cannot be found out is different.
        """
        ...

    def close(self) -> None:
        """End what was started. Safe to call twice."""
        ...


def as_answered(groups: Sequence[Sequence[Episode]]) -> list[list[str | None]]:
    """The votes where equal answers are spelled alike already."""
    return [[episode.trajectory.answer for episode in group] for group in groups]


def verified_text(episode: Episode) -> str:
    """The text in which every verifier looks for the answer: all of the final turn, what was thought included.

    The only place that decides so: an answer that stands in a thought alone counts.
    """
    return episode.trajectory.turns[-1].text
