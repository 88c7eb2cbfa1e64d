"""From finished trajectories to their answers, correctness and rewards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

from sod.records import Fault, StopReason, Task, Trajectory, Verdict
from sod.rewards.base import Answer, Verifier
from sod.rewards.shaping import Shaping, shaped_reward


@final
@dataclass(frozen=True)
class VerifierReward:
    """Judges the final turn of every episode with the verifier of its task, all episodes of a verifier at once.

    `by_source` names the verifier of a `data_source`; `default` judges all others. Only an episode that ended in
    an answer can be right: one that was cut off has not answered. Where the verifier itself fails, and fails again
    `retries` times, the trajectory carries its fault and no reward.
    """

    default: Verifier
    by_source: Mapping[str, Verifier]
    shaping: Shaping
    retries: int = 2

    def __call__(self, episodes: Sequence[tuple[Task, Trajectory]]) -> list[Trajectory]:
        """The episodes in order, each with answer, correctness, reward and verdict, or with a fault."""
        judged = [self._settled(trajectory, Verdict(None, False, trajectory.stop.value)) for _, trajectory in episodes]
        waiting = [at for at, (_, t) in enumerate(episodes) if t.stop is StopReason.ANSWER]
        for _ in range(1 + self.retries):
            for at, outcome in self._verified(episodes, waiting):
                judged[at] = self._settled(episodes[at][1], outcome)
            waiting = [at for at in waiting if (fault := judged[at].fault) is not None and fault.retryable]
            if not waiting:
                break
        return judged

    def _verified(
        self, episodes: Sequence[tuple[Task, Trajectory]], waiting: Sequence[int]
    ) -> list[tuple[int, Verdict | Fault]]:
        """One outcome per waiting episode."""
        by_verifier: dict[str | None, list[int]] = defaultdict(list)
        for at in waiting:
            source = episodes[at][0].data_source
            by_verifier[source if source in self.by_source else None].append(at)
        outcomes: list[tuple[int, Verdict | Fault]] = []
        for name, mine in by_verifier.items():
            verifier = self.default if name is None else self.by_source[name]
            answers = [_answer(*episodes[at]) for at in mine]
            outcomes += zip(mine, verifier.verify(answers), strict=True)
        return outcomes

    def _settled(self, trajectory: Trajectory, outcome: Verdict | Fault) -> Trajectory:
        if isinstance(outcome, Fault):
            return replace(trajectory, fault=outcome)
        return replace(
            trajectory,
            answer=outcome.answer,
            correct=outcome.correct,
            reward=shaped_reward(outcome.correct, trajectory, self.shaping),
            verdict=outcome.detail,
        )


def _answer(task: Task, trajectory: Trajectory) -> Answer:
    return Answer(trajectory.turns[-1].text, task.ground_truth, task.extra)
