"""From finished episodes to their answers, correctness and rewards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

from sod.outcomes import filled, retried
from sod.records import Episode, Fault, StopReason, Task, Trajectory, Verdict, may_retry
from sod.rewards.base import Verifier, as_answered, explained
from sod.rewards.function import OwnReward, Score, scored
from sod.rewards.shaping import Shaping, reward_parts


@final
@dataclass(frozen=True)
class VerifierReward:
    """Rewards every episode by the verdict of its task's verifier, all episodes of a verifier at once, and by the
    user's own functions.

    `by_source` names the verifier of a `data_source`, `declared` that of a task whose row tells who has to judge it;
    `default` verifies all others; None: nobody does. To a verifier only an episode that ended in an answer can be
    right: one that was cut off has not answered. `own` functions are given every episode. Where no verifier judges,
    their word is what is right: a `Verdict` that one of them returned, else a sum of at least `right`. Where a verifier
    or function fails, and fails again `retries` times, the trajectory carries its fault and no reward.
    """

    default: Verifier | None
    by_source: Mapping[str, Verifier]
    shaping: Shaping
    retries: int = 2
    declared: Mapping[str, Verifier] = field(default_factory=dict)
    own: Sequence[OwnReward] = ()
    right: float = 1.0

    def __call__(self, episodes: Sequence[Episode]) -> list[Trajectory]:
        """The trajectories in order, each with answer, correctness, reward, its parts and verdict, or with a fault."""
        verdicts = self._verdicts(episodes)
        # An episode whose verifier failed stays as it is: the reward would lack a part.
        failed: list[Score | Fault | None] = [one if isinstance(one, Fault) else None for one in verdicts]
        scores: list[Score | Fault] = filled(failed, episodes, self._scored_by_own)
        return [
            self._rewarded(episode.trajectory, verdict, score)
            for episode, verdict, score in zip(episodes, verdicts, scores, strict=True)
        ]

    def votes(self, groups: Sequence[Sequence[Episode]]) -> list[list[str | None]]:
        """The answers of rewarded episodes for majority votes: equal ones of a group in one spelling."""
        votes: dict[int, list[str | None]] = {}
        tasks = [group[0].task if group else None for group in groups]
        for verifier, mine in self._by_verifier(tasks):
            asked = [groups[at] for at in mine]
            votes.update(zip(mine, as_answered(asked) if verifier is None else verifier.votes(asked), strict=True))
        return [votes[at] for at in range(len(groups))]

    def _verdicts(self, episodes: Sequence[Episode]) -> list[Verdict | Fault | None]:
        """What verifiers say of each episode; None where none judges it."""
        judged = [at for at, episode in enumerate(episodes) if self._verifier_of(episode.task) is not None]
        mine = [episodes[at] for at in judged]
        cut_off = [self._cut_off(episode.trajectory) for episode in mine]
        outcomes: list[Verdict | Fault] = filled(cut_off, mine, self._verified_with_retries)
        found = dict(zip(judged, outcomes, strict=True))
        return [found.get(at) for at in range(len(episodes))]

    def _cut_off(self, trajectory: Trajectory) -> Verdict | Fault | None:
        """The verdict on an episode that did not end in an answer, which no verifier sees."""
        return None if trajectory.stop is StopReason.ANSWER else Verdict(None, 0.0, trajectory.stop.value)

    def _verified_with_retries(self, episodes: Sequence[Episode]) -> list[Verdict | Fault]:
        outcomes, _ = retried(episodes, self._verified, may_retry, self.retries)
        return outcomes

    def _verified(self, episodes: Sequence[Episode]) -> list[Verdict | Fault]:
        """One outcome per episode, of which each has a verifier; every verifier is asked once."""
        outcomes: dict[int, Verdict | Fault] = {}
        for verifier, mine in self._by_verifier([episode.task for episode in episodes]):
            assert verifier is not None
            outcomes.update(zip(mine, verifier.verify([episodes[at] for at in mine]), strict=True))
        return [explained(outcomes[at], episode) for at, episode in enumerate(episodes)]

    def _by_verifier(self, tasks: Sequence[Task | None]) -> list[tuple[Verifier | None, list[int]]]:
        """Each verifier with the positions of the tasks that are its own."""
        positions: dict[int, list[int]] = defaultdict(list)
        verifiers: dict[int, Verifier | None] = {}
        for at, task in enumerate(tasks):
            verifier = self._verifier_of(task)
            verifiers[id(verifier)] = verifier
            positions[id(verifier)].append(at)
        return [(verifiers[key], mine) for key, mine in positions.items()]

    def _scored_by_own(self, episodes: Sequence[Episode]) -> list[Score | Fault]:
        return scored(self.own, episodes, self.retries)

    def _verifier_of(self, task: Task | None) -> Verifier | None:
        if task is None:
            return self.default
        declared = self.declared.get(task.verifier, self.default) if task.verifier is not None else self.default
        return self.by_source.get(task.data_source, declared)

    def _rewarded(self, trajectory: Trajectory, verdict: Verdict | Fault | None, score: Score | Fault) -> Trajectory:
        """The trajectory with its reward, or a fault; the verifier's verdict counts before a function's own."""
        if isinstance(score, Fault):
            return replace(trajectory, fault=score)
        said = verdict if isinstance(verdict, Verdict) else score.verdict
        parts = reward_parts(None if verdict is None else bool(said and said.correct), trajectory, self.shaping)
        return replace(
            trajectory,
            answer=said.answer if said else None,
            correct=said.correct if said else sum(score.parts.values()) >= self.right,
            reward=sum(parts.values()) + sum(score.parts.values()),
            reward_parts={**parts, **score.parts},
            verdict=said.detail if said else "",
        )
