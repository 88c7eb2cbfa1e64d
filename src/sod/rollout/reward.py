"""From finished episodes to their answers, correctness and rewards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

from sod.outcomes import filled, retried
from sod.records import Episode, Fault, StopReason, Task, Trajectory, Verdict, may_retry
from sod.rewards.base import Verifier, explained
from sod.rewards.shaping import Shaping, reward_parts


@final
@dataclass(frozen=True)
class VerifierReward:
    """Rewards every episode by the verdict of its task's verifier, all episodes of a verifier at once.

    `by_source` names the verifier of a `data_source`, `declared` that of a task whose row tells who has to judge it;
    `default` verifies all others. Only an episode that ended in an answer can be right: one that was cut off has not
    answered. Where the verifier itself fails, and fails again `retries` times, the trajectory carries its fault and no
    reward.
    """

    default: Verifier
    by_source: Mapping[str, Verifier]
    shaping: Shaping
    retries: int = 2
    declared: Mapping[str, Verifier] = field(default_factory=dict)

    def __call__(self, episodes: Sequence[Episode]) -> list[Trajectory]:
        """The trajectories in order, each with answer, correctness, reward, its parts and verdict, or with a fault."""
        cut_off = [self._cut_off(episode.trajectory) for episode in episodes]
        outcomes: list[Verdict | Fault] = filled(cut_off, episodes, self._verified_with_retries)
        return [
            self._rewarded(episode.trajectory, outcome) for episode, outcome in zip(episodes, outcomes, strict=True)
        ]

    def votes(self, groups: Sequence[Sequence[Episode]]) -> list[list[str | None]]:
        """The answers of rewarded episodes for majority votes: equal ones of a group in one spelling."""
        votes: dict[int, list[str | None]] = {}
        tasks = [group[0].task if group else None for group in groups]
        for verifier, mine in self._by_verifier(tasks):
            votes.update(zip(mine, verifier.votes([groups[at] for at in mine]), strict=True))
        return [votes[at] for at in range(len(groups))]

    def _cut_off(self, trajectory: Trajectory) -> Verdict | Fault | None:
        """The verdict on an episode that did not end in an answer, which no verifier sees."""
        return None if trajectory.stop is StopReason.ANSWER else Verdict(None, 0.0, trajectory.stop.value)

    def _verified_with_retries(self, episodes: Sequence[Episode]) -> list[Verdict | Fault]:
        outcomes, _ = retried(episodes, self._verified, may_retry, self.retries)
        return outcomes

    def _verified(self, episodes: Sequence[Episode]) -> list[Verdict | Fault]:
        """One outcome per episode; every verifier is asked once."""
        outcomes: dict[int, Verdict | Fault] = {}
        for verifier, mine in self._by_verifier([episode.task for episode in episodes]):
            outcomes.update(zip(mine, verifier.verify([episodes[at] for at in mine]), strict=True))
        return [explained(outcomes[at], episode) for at, episode in enumerate(episodes)]

    def _by_verifier(self, tasks: Sequence[Task | None]) -> list[tuple[Verifier, list[int]]]:
        """Each verifier with the positions of the tasks that are its own."""
        positions: dict[int, list[int]] = defaultdict(list)
        verifiers: dict[int, Verifier] = {}
        for at, task in enumerate(tasks):
            verifier = self._verifier_of(task)
            verifiers[id(verifier)] = verifier
            positions[id(verifier)].append(at)
        return [(verifiers[key], mine) for key, mine in positions.items()]

    def _verifier_of(self, task: Task | None) -> Verifier:
        if task is None:
            return self.default
        declared = self.declared.get(task.verifier, self.default) if task.verifier is not None else self.default
        return self.by_source.get(task.data_source, declared)

    def _rewarded(self, trajectory: Trajectory, outcome: Verdict | Fault) -> Trajectory:
        if isinstance(outcome, Fault):
            return replace(trajectory, fault=outcome)
        parts = reward_parts(outcome.correct, trajectory, self.shaping)
        return replace(
            trajectory,
            answer=outcome.answer,
            correct=outcome.correct,
            reward=sum(parts.values()),
            reward_parts=parts,
            verdict=outcome.detail,
        )
