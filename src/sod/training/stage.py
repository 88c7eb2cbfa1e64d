"""The episodes of one step, played for the strategies of `sod.objective.episodes`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, final

from sod.clock import Clock
from sod.engines.base import Sampling
from sod.records import Group, Task
from sod.rollout.collect import Collected, Collector
from sod.rollout.prefix import Prefix, prefix_of


class Collects(Protocol):
    """Where the student's episodes come from: a `Collector` plays them, and others know them already."""

    def collect(
        self,
        tasks: Sequence[Task],
        samples: int,
        sampling: Sampling,
        purpose: str,
        step: int,
        *,
        max_turns: int | None = None,
        prefixes: Sequence[Prefix] | None = None,
    ) -> Collected:
        """See `Collector.collect`."""
        ...


@final
@dataclass(frozen=True)
class RolloutStage:
    """`sod.objective.episodes.Stage` with real episodes: `samples` of every task by the student.

    `expert` plays the teacher's episodes; None where the method needs none. `figures` are what the report of the step
    says of those.
    """

    tasks: Sequence[Task]
    samples: int
    sampling: Sampling
    step: int
    rollout: Collects
    expert: Collector | None
    clock: Clock
    figures: dict[str, float] = field(default_factory=dict)

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
        prefixes = [_shown_part(group, leave) for group in shown.groups]
        correct = [group.trajectories[0].correct for group in shown.groups if group.trajectories]
        if correct:
            self.figures["teacher_accuracy"] = sum(correct) / len(correct)
        self.figures["replayed"] = sum(prefix.turns > 0 for prefix in prefixes) / len(prefixes)
        return prefixes


def _shown_part(group: Group, leave: int) -> Prefix:
    """The teacher's attempt at a task without its last `leave` turns; one that failed or faulted shows nothing."""
    played = group.trajectories[0] if group.trajectories else group.faulted[0]
    return prefix_of(played, max(0, len(played.turns) - leave) if played.correct else 0)
