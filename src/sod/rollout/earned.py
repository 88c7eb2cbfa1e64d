"""Rewards of episodes that are played in an environment: what it gave, beside what else the recipe says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from sod.records import Episode, Trajectory
from sod.rewards.shaping import Shaping, overlong_penalty
from sod.rollout.episode import EARNED
from sod.rollout.reward import VerifierReward


@final
@dataclass(frozen=True)
class EnvironmentReward:
    """The environment's rewards of an episode, added up, as its part `environment`; the overlong penalty beside it.

    An episode is right where they reach `success`. The parts of `beside`, a verifier and own functions, are added; with
    `verified` it also decides what is right.
    """

    success: float
    shaping: Shaping
    beside: VerifierReward | None = None
    verified: bool = False

    def __call__(self, episodes: Sequence[Episode]) -> list[Trajectory]:
        """The trajectories in order, each with correctness, reward and its parts, or with a fault of `beside`."""
        if self.beside is None:
            return [self._earned(episode.trajectory) for episode in episodes]
        judged = self.beside(episodes)
        return [self._joined(episode.trajectory, other) for episode, other in zip(episodes, judged, strict=True)]

    def votes(self, groups: Sequence[Sequence[Episode]]) -> list[list[str | None]]:
        """The verifier's votes; without one nothing was answered that a majority could agree on."""
        if self.beside is None:
            return [[None] * len(group) for group in groups]
        return self.beside.votes(groups)

    def _earned(self, trajectory: Trajectory) -> Trajectory:
        earned = trajectory.reward_parts[EARNED]
        parts = {EARNED: earned}
        if self.shaping.overlong_buffer:
            limit, buffer = self.shaping.max_response_tokens, self.shaping.overlong_buffer
            parts["overlong"] = overlong_penalty(trajectory.response_tokens, limit, buffer)
        return replace(trajectory, correct=earned >= self.success, reward=sum(parts.values()), reward_parts=parts)

    def _joined(self, played: Trajectory, judged: Trajectory) -> Trajectory:
        """What `beside` says of an episode, with what its environment gave."""
        if judged.fault is not None:
            return judged
        earned = played.reward_parts[EARNED]
        parts = {EARNED: earned, **judged.reward_parts}
        correct = judged.correct if self.verified else earned >= self.success
        return replace(judged, correct=correct, reward=sum(parts.values()), reward_parts=parts)
