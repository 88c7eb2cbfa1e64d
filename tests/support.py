"""What several tests make for themselves; importable because `tests` is on pytest's path (pyproject.toml)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sod.records import Episode, Message, Said, StopReason, Task, ToolCall, Trajectory, Turn
from sod.rewards.math_verifier import MathVerifier
from sod.rewards.shaping import Shaping
from sod.rollout.reward import VerifierReward
from sod.tools.base import ToolRequest


def math_reward(correct: float = 1.0, wrong: float = -1.0) -> VerifierReward:
    """The reward function of the recipes: boxed answers, no shaping. Worker processes start for hard answers only."""
    return VerifierReward(MathVerifier(), {}, Shaping(correct, wrong))


def tool_request(episode: str, call: ToolCall) -> ToolRequest:
    """A call of an episode about nothing in particular."""
    return ToolRequest(episode, call, Task("t", (Message("user", "?"),), ""))


def answered(
    text: str,
    truth: str = "",
    extra: Mapping[str, Any] | None = None,
    source: str = "x",
    stop: StopReason = StopReason.ANSWER,
) -> Episode:
    """An episode of one turn of two tokens that says `text`."""
    task = Task("t", (Message("user", "?"),), truth, source, extra or {})
    turn = Turn(1, 1, 3, text, said=Said("", text))
    return Episode(task, Trajectory("t", 0, 1, (5, 6, 7), (0, 1, 1), (0.0, -1.0, -1.0), (turn,), stop))
