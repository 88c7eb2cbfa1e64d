"""The episodes of one step, played for the strategies of `sod.objective.episodes`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from sod.clock import Clock
from sod.engines.base import Sampling
from sod.records import Task
from sod.rollout.collect import Collected, Collector
from sod.rollout.prefix import Prefix, prefix_of


@final
@dataclass(frozen=True)
class RolloutStage:
    """`sod.objective.episodes.Stage` with real episodes: `samples` of every task by the student.

    `expert` plays the teacher's episodes; None where the method needs none.
    """

    tasks: Sequence[Task]
    samples: int
    sampling: Sampling
    step: int
    rollout: Collector
    expert: Collector | None
    clock: Clock

    def student(self, max_turns: int | None = None, prefixes: Sequence[Prefix] | None = None) -> Collected:
        """See `Stage.student`. Raises SodError when too many of the latest episodes faulted."""
        return self.rollout.collect(
            self.tasks, self.samples, self.sampling, "train", self.step, max_turns=max_turns, prefixes=prefixes
        )

    def teacher_prefixes(self, leave: int) -> list[Prefix]:
        """See `Stage.teacher_prefixes`. Raises ValueError where nobody plays the teacher's episodes."""
        if self.expert is None:
            raise ValueError("the method needs the teacher's episodes, and nobody plays them")
        with self.clock.timed("expert"):
            shown = self.expert.collect(self.tasks, 1, self.sampling, "expert", self.step)
        prefixes = []
        for group in shown.groups:
            if group.trajectories:
                played = group.trajectories[0]
                prefixes.append(prefix_of(played, max(0, len(played.turns) - leave)))
            else:
                # An episode of the teacher's that faulted shows nothing: the student starts from the prompt.
                prefixes.append(prefix_of(group.faulted[0], 0))
        return prefixes
