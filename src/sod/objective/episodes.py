"""Who plays which turns of a step's episodes: the student all of them, only the first, or those after its teacher.

A strategy says what it needs and asks a `Stage` to play; how episodes are played is the stage's business.

Deviations from TCOD (arXiv 2604.24005), back to front: the teacher's turns come from an episode that it plays in the
same step, not from a store of its successes. It has one attempt a task; where that fails, the student plays its turns
from the prompt, while the paper has no such tasks.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

from sod.objective.needs import Need


class Stage(Protocol):
    """What a strategy can have played, for the tasks of one step.

    The types of episodes and prefixes belong to the rollout, which the objective does not import: a strategy passes
    them on without looking into them.
    """

    def student(self, max_turns: int | None = None, prefixes: Sequence[Any] | None = None) -> Any:
        """The student's episodes, capped at `max_turns` of its turns; one prefix a task is where they begin."""
        ...

    def teacher_prefixes(self, leave: int) -> Sequence[Any]:
        """For each task a successful episode of the teacher's without its last `leave` turns; the prompt alone where
        its attempt failed or faulted.
        """
        ...


class EpisodeStrategy(Protocol):
    """How a method's episodes come about."""

    @property
    def needs(self) -> frozenset[Need]:
        """What the strategy needs of the run."""
        ...

    def refusal(self, stateful_tools: Collection[str]) -> str | None:
        """Why it cannot be used in a run whose tools of these names keep state over an episode's calls; else None."""
        ...

    def student_turns(self, step: int) -> int | None:
        """How many turns the student plays at step `step` (from 1) where the run's limits allow more; None: any."""
        ...

    def play(self, stage: Stage, step: int) -> Any:
        """The episodes of step `step` (from 1), as the stage gives them."""
        ...


@final
@dataclass(frozen=True)
class WholeEpisodes:
    """The student plays every turn."""

    needs: frozenset[Need] = frozenset()

    def refusal(self, stateful_tools: Collection[str]) -> str | None:
        """None: any tool will do."""
        return None

    def student_turns(self, step: int) -> int | None:
        """None: all of them."""
        return None

    def play(self, stage: Stage, step: int) -> Any:
        """See `EpisodeStrategy.play`."""
        return stage.student()


WHOLE_EPISODES = WholeEpisodes()


@final
@dataclass(frozen=True)
class FirstTurns:
    """TCOD front to back (arXiv 2604.24005): only the first turns, as many as `turns_at` says.

    Raises ValueError for a `start` or `every` below 1.
    """

    start: int = 1
    every: int = 2
    needs: frozenset[Need] = frozenset()

    def __post_init__(self) -> None:
        _check(self.start, self.every)

    def refusal(self, stateful_tools: Collection[str]) -> str | None:
        """None: any tool will do."""
        return None

    def student_turns(self, step: int) -> int:
        """See `EpisodeStrategy.student_turns`."""
        return turns_at(step, self.start, self.every)

    def play(self, stage: Stage, step: int) -> Any:
        """See `EpisodeStrategy.play`."""
        return stage.student(max_turns=self.student_turns(step))


@final
@dataclass(frozen=True)
class AfterTeacherTurns:
    """TCOD back to front (arXiv 2604.24005): the last turns of an episode that the teacher has begun and brought to a
    right answer.

    The student plays as many turns as under `FirstTurns`.

    Raises ValueError for a `start` or `every` below 1.
    """

    start: int = 1
    every: int = 2
    needs: frozenset[Need] = frozenset({Need.TEACHER_EPISODES})

    def __post_init__(self) -> None:
        _check(self.start, self.every)

    def refusal(self, stateful_tools: Collection[str]) -> str | None:
        """The teacher's turns are read again, but not run again: what they left in a tool would be missing."""
        if not stateful_tools:
            return None
        return "replays the teacher's turns, but not what they left in a tool"

    def student_turns(self, step: int) -> int:
        """See `EpisodeStrategy.student_turns`."""
        return turns_at(step, self.start, self.every)

    def play(self, stage: Stage, step: int) -> Any:
        """See `EpisodeStrategy.play`."""
        turns = self.student_turns(step)
        return stage.student(max_turns=turns, prefixes=stage.teacher_prefixes(leave=turns))


def turns_at(step: int, start: int, every: int) -> int:
    """How many turns the student plays at step `step` (from 1): TCOD's `k_0 + step // eta`.

    The paper's limit on them is `rollout.max_turns`, which holds for every episode.
    """
    return start + step // every


def _check(start: int, every: int) -> None:
    if start < 1 or every < 1:
        raise ValueError(
            f"a curriculum starts with a turn or more and grows after a step or more; got {start=} {every=}"
        )
