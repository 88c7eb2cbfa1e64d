"""Where an episode begins when that is not its prompt: after turns that somebody else has played.

For depth curricula (TCOD, arXiv 2604.24005): the teacher plays a task, its ledger is cut after some turns, and the
student goes on from there. What stands in a prefix is context to the student, never its action.

Tool results of a prefix are read, not run again. A tool that keeps state per episode would know nothing of the
calls in it, so that state and conversation would contradict each other: such a tool must not be used with prefixes.
An environment can: it is reset with the same seed, and takes the actions again (`sod.rollout.opening`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from sod.records import Opening, Trajectory, Turn
from sod.rollout.limits import EpisodeLimits


@final
@dataclass(frozen=True)
class Played:
    """What brings an environment to where a prefix ends: how its episode began, and its turns."""

    opening: Opening
    turns: tuple[Turn, ...]

    @property
    def earned(self) -> float:
        """What the environment gave for them."""
        return self.opening.earned + sum(turn.reward for turn in self.turns)


@final
@dataclass(frozen=True)
class Prefix:
    """The prompt of a task and `turns` played turns with their tool results, up to where the next turn begins.

    `played` is there where it was played in an environment.
    """

    token_ids: tuple[int, ...]
    turns: int
    played: Played | None = None


def prefix_of(trajectory: Trajectory, turns: int) -> Prefix:
    """The first `turns` turns of a trajectory that was played from its prompt; 0 gives the prompt alone.

    Fewer where it has no more: its last turn is never part of a prefix, so that something is left to do. A
    prefix therefore fits any limits that are as wide as those the trajectory was played under.
    Raises ValueError when `turns` is negative.
    """
    if turns < 0:
        raise ValueError(f"a prefix cannot have {turns} turns")
    kept = min(turns, len(trajectory.turns) - 1)
    if kept < 1:
        return Prefix(trajectory.token_ids[: trajectory.prompt_tokens], 0)
    opening = trajectory.opening
    played = None if opening is None else Played(opening, trajectory.turns[:kept])
    return Prefix(trajectory.token_ids[: trajectory.turns[kept].start], kept, played)


def limits_after(prefix: Prefix, prompt_ids: Sequence[int], limits: EpisodeLimits) -> EpisodeLimits:
    """What `limits` leave to the student: the turns that are left, at least one, and the tokens that are left.

    So `max_response_tokens` bounds all that follows the prompt, the prefix's turns included.
    Raises ValueError when the prefix does not begin with `prompt_ids`, or leaves no token.
    """
    if prefix.token_ids[: len(prompt_ids)] != tuple(prompt_ids):
        raise ValueError("the prefix does not begin with the task's prompt")
    used = len(prefix.token_ids) - len(prompt_ids)
    if used >= limits.max_response_tokens:
        raise ValueError(
            f"the prefix has {used} tokens after the prompt and leaves none of max_response_tokens="
            f"{limits.max_response_tokens}"
        )
    return replace(
        limits,
        max_turns=max(1, limits.max_turns - prefix.turns),
        max_response_tokens=limits.max_response_tokens - used,
    )
