"""Episodes that were played before, in place of new ones: what a run learns from where its teacher's scores are a
file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from sod.engines.base import Sampling
from sod.records import Episode, Group, Task, Trajectory
from sod.rollout.collect import Collected
from sod.rollout.prefix import Prefix
from sod.seeds import derive


@final
class StoredEpisodes:
    """Stands in a run where its episodes are collected: of a task that is drawn, those that there are."""

    def __init__(self, episodes: Sequence[Episode], seed: int) -> None:
        self._seed = seed
        self._by_task: dict[str, list[Episode]] = {}
        for episode in episodes:
            self._by_task.setdefault(episode.task.id, []).append(episode)

    @property
    def tasks(self) -> list[Task]:
        """The tasks that there are episodes of, in the order of the file."""
        return [episodes[0].task for episodes in self._by_task.values()]

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
        """As `Collector.collect`: up to `samples` episodes of every task, drawn by (seed, step, task)."""
        groups = [Group(task.id, self._drawn(task, number, samples, step)) for number, task in enumerate(tasks)]
        return Collected(groups, {"sample": 0.0, "tools": 0.0, "reward": 0.0})

    def _drawn(self, task: Task, number: int, samples: int, step: int) -> tuple[Trajectory, ...]:
        known = self._by_task[task.id]
        order = sorted(range(len(known)), key=lambda one: derive(self._seed, "stored", step, number, one))
        return tuple(known[one].trajectory for one in sorted(order[:samples]))
