"""What a verifier is: episodes in, one verdict or fault each, in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from sod.records import Episode, Fault, Verdict

ONLY_A_THOUGHT = "nothing was said: the final turn is a thought alone"


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
    """The text in which every verifier looks for the answer: what the final turn says (`Said.answer`).

    The only place that decides so. Neither thoughts nor calls are said: a box or a program that stands in a thought
    alone, be it closed or not, is no answer, nor is one of an earlier turn.
    """
    return episode.trajectory.turns[-1].said.answer


def explained(outcome: Verdict | Fault, episode: Episode) -> Verdict | Fault:
    """The outcome, whose detail says so where no answer was found because the final turn is a thought alone."""
    said = episode.trajectory.turns[-1].said
    only_thought = said.thinking.strip() and not said.answer.strip()
    if only_thought and isinstance(outcome, Verdict) and outcome.answer is None:
        return replace(outcome, detail=ONLY_A_THOUGHT)
    return outcome
