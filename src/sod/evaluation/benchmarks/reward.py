"""Episodes on benchmarks, judged by a style: every one of them, also those that were cut off, as harnesses do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from sod.outcomes import retried
from sod.records import Episode, Fault, Trajectory, Verdict, may_retry
from sod.rewards.base import Verifier, explained


@final
@dataclass(frozen=True)
class StyleReward:
    """What a collector rewards episodes by: 1 is right and 0 is wrong, in the style's own reading.

    Unlike `sod.rollout.reward.VerifierReward`, which holds an answer that was cut off for none, it leaves that to the
    style. A verifier that fails, and fails again `retries` times, is the trajectory's fault.
    """

    verifier: Verifier
    retries: int = 2

    def __call__(self, episodes: Sequence[Episode]) -> list[Trajectory]:
        """See `sod.rollout.collect.RewardFunction`."""
        outcomes, _ = retried(episodes, self._verified, may_retry, self.retries)
        return [_judged(episode.trajectory, outcome) for episode, outcome in zip(episodes, outcomes, strict=True)]

    def votes(self, groups: Sequence[Sequence[Episode]]) -> list[list[str | None]]:
        """See `sod.rollout.collect.RewardFunction`."""
        return self.verifier.votes(groups)

    def _verified(self, episodes: Sequence[Episode]) -> list[Verdict | Fault]:
        outcomes = self.verifier.verify(episodes)
        return [explained(outcome, episode) for outcome, episode in zip(outcomes, episodes, strict=True)]


def _judged(trajectory: Trajectory, outcome: Verdict | Fault) -> Trajectory:
    if isinstance(outcome, Fault):
        return replace(trajectory, fault=outcome)
    return replace(
        trajectory,
        answer=outcome.answer,
        correct=outcome.correct,
        reward=outcome.score,
        reward_parts={"outcome": outcome.score},
        verdict=outcome.detail,
    )
