"""The reward of an episode: the paper's numbers, each part on its own and together."""

from __future__ import annotations

import pytest

from sod.records import SodError, StopReason, ToolCall, ToolResult, Trajectory, Turn
from sod.rewards.shaping import Shaping, messages, overlong_penalty, reward_parts, tool_bonus


def episode(calls_per_turn: list[int], response_tokens: int = 10) -> Trajectory:
    """Turns with so many calls each, and an answer without any behind them."""
    call, result = ToolCall("python", {"code": "1"}), ToolResult("1")
    turns = tuple(
        Turn(k, 0, 0, "", (call,) * calls, (result,) * calls) for k, calls in enumerate([*calls_per_turn, 0], 1)
    )
    zeros = (0,) * (3 + response_tokens)
    return Trajectory("task", 0, 3, zeros, zeros, tuple(0.0 for _ in zeros), turns, StopReason.ANSWER)


def shaped_reward(correct: bool, trajectory: Trajectory, shaping: Shaping) -> float:
    return sum(reward_parts(correct, trajectory, shaping).values())


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


@pytest.mark.parametrize("correct", [True, False])
@pytest.mark.parametrize("tool_bonus_on", [True, False])
@pytest.mark.parametrize("buffer", [0, 7, 64])
def test_parts_add_up_to_the_very_float_of_one_formula(correct: bool, tool_bonus_on: bool, buffer: int) -> None:
    """Bonus and penalty apart, added in order, are the score and the penalty added at once: not a bit differs."""
    shaping = Shaping(0.7, -0.3, tool_bonus_on, buffer, 100)
    for calls in range(12):
        for tokens in (0, 37, 94, 97, 99, 100, 101):
            played = episode([1] * calls, tokens)
            failed = tool_bonus(messages(played)) if tool_bonus_on else -0.3
            score = 0.7 if correct else failed
            assert shaped_reward(correct, played, shaping) == score + overlong_penalty(tokens, 100, buffer)


def test_only_what_is_switched_on_is_a_part() -> None:
    assert reward_parts(False, episode([1]), Shaping()) == {"outcome": -1.0}
    parts = reward_parts(False, episode([1, 1], 15), Shaping(1.0, -5.0, True, 10, 20))
    assert parts == {"outcome": -1.0, "tool_bonus": pytest.approx(0.2), "overlong": -0.5}
    assert list(parts) == ["outcome", "tool_bonus", "overlong"]
