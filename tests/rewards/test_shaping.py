"""The reward of an episode: the paper's numbers, each part on its own and together."""

from __future__ import annotations

import pytest

from sod.records import SodError, StopReason, ToolCall, ToolResult, Trajectory, Turn
from sod.rewards.shaping import Shaping, messages, overlong_penalty, shaped_reward, tool_bonus


def episode(calls_per_turn: list[int], response_tokens: int = 10) -> Trajectory:
    """Turns with so many calls each, and an answer without any behind them."""
    call, result = ToolCall("python", {"code": "1"}), ToolResult("1")
    turns = tuple(
        Turn(k, 0, 0, "", (call,) * calls, (result,) * calls) for k, calls in enumerate([*calls_per_turn, 0], 1)
    )
    zeros = (0,) * (3 + response_tokens)
    return Trajectory("task", 0, 3, zeros, zeros, tuple(0.0 for _ in zeros), turns, StopReason.ANSWER)


def test_plain_scores_are_one_and_minus_one() -> None:
    assert shaped_reward(True, episode([1, 1]), Shaping()) == 1.0
    assert shaped_reward(False, episode([1, 1]), Shaping()) == -1.0
    assert shaped_reward(False, episode([]), Shaping(correct=1.0, wrong=0.0)) == 0.0


@pytest.mark.parametrize(
    ("calls", "count", "reward"),
    [([], 2, -1.0), ([1], 4, -0.9), ([1, 1], 6, -0.8), ([2], 5, -0.85), ([1] * 4, 10, -0.6), ([1] * 9, 20, -0.6)],
)
def test_a_failed_answer_earns_a_tenth_per_call_up_to_a_ceiling(calls: list[int], count: int, reward: float) -> None:
    shaping = Shaping(tool_bonus=True)
    assert messages(episode(calls)) == count
    assert shaped_reward(False, episode(calls), shaping) == pytest.approx(reward)
    assert shaped_reward(True, episode(calls), shaping) == 1.0


def test_the_bonus_never_reaches_the_score_of_a_right_answer() -> None:
    assert max(tool_bonus(turns) for turns in range(2, 200)) == -0.6


@pytest.mark.parametrize(
    ("tokens", "penalty"),
    [(0, 0.0), (19_456, 0.0), (19_457, -1 / 1024), (19_968, -0.5), (20_480, -1.0), (30_000, -1.0)],
)
def test_the_overlong_penalty_grows_over_the_buffer(tokens: int, penalty: float) -> None:
    assert overlong_penalty(tokens, 20_480, 1024) == pytest.approx(penalty)


def test_without_a_buffer_length_costs_nothing() -> None:
    assert overlong_penalty(10**6, 20_480, 0) == 0.0
    assert shaped_reward(True, episode([], 10**4), Shaping(max_response_tokens=100)) == 1.0


def test_length_counts_the_response_only_and_adds_to_either_score() -> None:
    shaping = Shaping(tool_bonus=True, overlong_buffer=10, max_response_tokens=20)
    assert shaped_reward(True, episode([1], 10), shaping) == 1.0
    assert shaped_reward(True, episode([1], 15), shaping) == pytest.approx(0.5)
    assert shaped_reward(False, episode([1], 20), shaping) == pytest.approx(-1.9)


@pytest.mark.parametrize(("buffer", "longest"), [(-1, 10), (11, 10), (1, 0)])
def test_a_buffer_that_does_not_fit_is_refused(buffer: int, longest: int) -> None:
    with pytest.raises(SodError, match="overlong_buffer"):
        Shaping(overlong_buffer=buffer, max_response_tokens=longest)
