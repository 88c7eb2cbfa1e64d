"""From right or wrong to a reward: the shaping of the SOD paper (arXiv 2605.07725), each part switchable.

Everything is in units of reward; the defaults are plain 1 and -1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from sod.records import SodError, ToolCall, Trajectory

TOOL_BONUS_CEILING = -0.6  # what a failed answer earns at most
FAILED = -1.0  # what it earns before its bonus
TOOL_BONUS_PER_ROUND = 0.1


@final
@dataclass(frozen=True)
class Shaping:
    """How an episode is rewarded.

    `tool_bonus` adds to a `wrong` of -1 a bonus for using tools, see `failed_reward`. `overlong_buffer` (tokens, 0:
    off; 1,024 in the paper) is the stretch before `max_response_tokens` over which a penalty grows
    from 0 to -1. Raises SodError for a buffer that does not fit, and for another `wrong` with `tool_bonus`: the paper's
    ceiling of -0.6 belongs to -1 (from 0 every failed answer would earn -0.6, with tools or without).
    """

    correct: float = 1.0
    wrong: float = -1.0
    tool_bonus: bool = False
    overlong_buffer: int = 0
    max_response_tokens: int = 0

    def __post_init__(self) -> None:
        if self.tool_bonus and self.wrong != FAILED:
            raise SodError(
                f"reward.wrong: {self.wrong:g} cannot be set with reward.tool_bonus, which starts from -1; "
                "leave reward.wrong out or switch reward.tool_bonus off"
            )
        if self.overlong_buffer < 0 or self.overlong_buffer > self.max_response_tokens:
            raise SodError(
                f"reward: overlong_buffer ({self.overlong_buffer}) must lie between 0 "
                f"and max_response_tokens ({self.max_response_tokens})"
            )


def reward_parts(correct: bool | None, trajectory: Trajectory, shaping: Shaping) -> dict[str, float]:
    """The summands of an episode's reward, in the order in which they are added.

    `outcome` where a verifier has judged it (None: none has); `tool_bonus` beside it and `overlong` where they are
    switched on. -1 and a bonus add up to exactly what `failed_reward` says (a difference of two floats within a factor
    of two of each other is exact).
    """
    parts: dict[str, float] = {}
    if correct is not None:
        parts["outcome"] = shaping.correct if correct else shaping.wrong
    if correct is not None and shaping.tool_bonus:
        parts["tool_bonus"] = 0.0 if correct else failed_reward(tool_rounds(trajectory)) - FAILED
    if shaping.overlong_buffer:
        limit, buffer = shaping.max_response_tokens, shaping.overlong_buffer
        parts["overlong"] = overlong_penalty(trajectory.response_tokens, limit, buffer)
    return parts


def tool_rounds(trajectory: Trajectory) -> int:
    """The rounds with tools: turns with at least one readable call whose results the model was given.

    Several calls of one turn are one round, and a call is readable whatever came of it (an unknown tool, an exception).
    A round of malformed calls alone does not count, nor one whose results were not run or did not fit any more.
    """
    rounds = 0
    for turn in trajectory.turns:
        readable = any(isinstance(call, ToolCall) for call in turn.said.calls)
        given = turn.results and turn.stop < len(trajectory.token_ids)  # the ledger lacks results that did not fit
        if readable and given:
            rounds += 1
    return rounds


def failed_reward(rounds: int) -> float:
    """What a failed answer earns with `tool_bonus`: `min(-0.6, -1 + 0.1 * rounds)`.

    The authors' code (verl's ReTool recipe, `compute_score`) has `min(-0.6, score + (num_turns - 2) / 2 * 0.1)` with a
    score of -1, where verl's agent loop counts `num_turns`: 1, one for each assistant turn, and one for each round
    of tool results however many calls it answers. It looks at no malformed call and does not count a round whose
    results exceed the response. With r such rounds and an answer that is 1 + (r + 1) + r, so 0.1 a round.
    """
    return min(TOOL_BONUS_CEILING, FAILED + TOOL_BONUS_PER_ROUND * rounds)


def overlong_penalty(response_tokens: int, max_response_tokens: int, buffer: int) -> float:
    """DAPO's soft penalty (arXiv 2503.14476, eq. 13): 0 up to `max - buffer`, then linear to -1 at `max`.

    All lengths in tokens; a buffer of 0 turns it off. Beyond `max` it stays -1.
    """
    if buffer == 0:
        return 0.0
    excess = response_tokens - (max_response_tokens - buffer)
    return -min(max(excess / buffer, 0.0), 1.0)
