"""What several tests make for themselves; importable because `tests` is on pytest's path (pyproject.toml)."""

from __future__ import annotations

from sod.records import Message, Task, ToolCall
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
