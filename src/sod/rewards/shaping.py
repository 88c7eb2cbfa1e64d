"""From right or wrong to a reward: the shaping of the SOD paper (arXiv 2605.07725), each part switchable.

Everything is in units of reward; the defaults are plain 1 and -1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from sod.records import SodError, Trajectory

TOOL_BONUS_CEILING = -0.6  # what a failed answer earns at most
FAILED = -1.0  # what it earns before its bonus


@final
@dataclass(frozen=True)
class Shaping:
    """How an episode is rewarded.

    `tool_bonus` replaces `wrong` by -1 plus a bonus for using tools. `overlong_buffer` (tokens, 0:
    off; 1,024 in the paper) is the stretch before `max_response_tokens` over which a penalty grows
    from 0 to -1. Raises SodError for a buffer that does not fit.
    """

    correct: float = 1.0
    wrong: float = -1.0
    tool_bonus: bool = False
    overlong_buffer: int = 0
    max_response_tokens: int = 0

    def __post_init__(self) -> None:
        if self.overlong_buffer < 0 or self.overlong_buffer > self.max_response_tokens:
            raise SodError(
                f"reward: overlong_buffer ({self.overlong_buffer}) must lie between 0 "
                f"and max_response_tokens ({self.max_response_tokens})"
            )


def reward_parts(correct: bool, trajectory: Trajectory, shaping: Shaping) -> dict[str, float]:
    """The summands of an episode's reward, in the order in which they are added.

    `outcome` always; `tool_bonus` and `overlong` where they are switched on. -1 and a bonus add up to exactly what
    `tool_bonus` says (a difference of two floats within a factor of two of each other is exact).
    """
    parts = {"outcome": shaping.correct if correct else shaping.wrong}
    if shaping.tool_bonus:
        bonus = 0.0 if correct else tool_bonus(messages(trajectory)) - FAILED
        parts = {"outcome": shaping.correct if correct else FAILED, "tool_bonus": bonus}
    if shaping.overlong_buffer:
        limit, buffer = shaping.max_response_tokens, shaping.overlong_buffer
        parts["overlong"] = overlong_penalty(trajectory.response_tokens, limit, buffer)
    return parts


def messages(trajectory: Trajectory) -> int:
    """The paper's count of turns: the first user message, and every student and tool message."""
    return 1 + len(trajectory.turns) + len(trajectory.tool_results)


def tool_bonus(turns: int) -> float:
    """What a failed answer earns: `min(-0.6, -1 + 0.1 * (turns - 2) / 2)`.

    A question and an answer are two turns and earn -1; each call with its result adds 0.1 until -0.6.
    """
    return min(TOOL_BONUS_CEILING, -1.0 + 0.1 * (turns - 2) / 2)


def overlong_penalty(response_tokens: int, max_response_tokens: int, buffer: int) -> float:
    """DAPO's soft penalty (arXiv 2503.14476, eq. 13): 0 up to `max - buffer`, then linear to -1 at `max`.

    All lengths in tokens; a buffer of 0 turns it off. Beyond `max` it stays -1.
    """
    if buffer == 0:
        return 0.0
    excess = response_tokens - (max_response_tokens - buffer)
    return -min(max(excess / buffer, 0.0), 1.0)
