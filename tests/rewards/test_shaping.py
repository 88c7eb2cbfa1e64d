"""The reward of an episode: the paper's numbers, each part on its own and together."""

from __future__ import annotations

import pytest

from sod.chat.dialects.hermes import render_call
from sod.chat.render import Chat
from sod.records import MalformedCall, Said, SodError, StopReason, ToolCall, ToolResult, Trajectory, Turn
from sod.rewards.shaping import Shaping, failed_reward, overlong_penalty, reward_parts, tool_rounds
from support import played

GOOD, BAD = ToolCall("python", {"code": "1"}), MalformedCall("invalid_json", "no")


def turn_with(k: int, calls: tuple[ToolCall | MalformedCall, ...], stop: int = 0, run: bool = True) -> Turn:
    """A turn that ends at token `stop`, as it is recorded."""
    recorded = tuple(call if isinstance(call, ToolCall) else ToolCall("", {}) for call in calls)
    results = tuple(call.result() if isinstance(call, MalformedCall) else ToolResult("1") for call in calls)
    return Turn(k, 0, stop, "", recorded, results if run else (), Said(calls=calls))


def of_turns(turns: list[Turn], response_tokens: int = 10) -> Trajectory:
    zeros = (0,) * (3 + response_tokens)
    return Trajectory("task", 0, 3, zeros, zeros, tuple(0.0 for _ in zeros), tuple(turns), StopReason.ANSWER)


def episode(calls_per_turn: list[int], response_tokens: int = 10) -> Trajectory:
    """Turns with so many readable calls each, and an answer without any behind them."""
    return of_turns([turn_with(k, (GOOD,) * calls) for k, calls in enumerate([*calls_per_turn, 0], 1)], response_tokens)


def shaped_reward(correct: bool, trajectory: Trajectory, shaping: Shaping) -> float:
    return sum(reward_parts(correct, trajectory, shaping).values())


def test_plain_scores_are_one_and_minus_one() -> None:
    assert shaped_reward(True, episode([1, 1]), Shaping()) == 1.0
    assert shaped_reward(False, episode([1, 1]), Shaping()) == -1.0
    assert shaped_reward(False, episode([]), Shaping(correct=1.0, wrong=0.0)) == 0.0


@pytest.mark.parametrize(
    ("calls", "rounds", "reward"),
    [
        ([], 0, -1.0),
        ([1], 1, -0.9),
        ([1, 1], 2, -0.8),
        ([2], 1, -0.9),
        ([3, 1], 2, -0.8),
        ([1] * 4, 4, -0.6),
        ([1] * 9, 9, -0.6),
    ],
)
def test_a_failed_answer_earns_a_tenth_a_round_up_to_a_ceiling(calls: list[int], rounds: int, reward: float) -> None:
    """Several calls of one turn are one round."""
    shaping = Shaping(tool_bonus=True)
    assert tool_rounds(episode(calls)) == rounds
    assert shaped_reward(False, episode(calls), shaping) == pytest.approx(reward)
    assert shaped_reward(True, episode(calls), shaping) == 1.0


@pytest.mark.parametrize(
    ("turns", "rounds"),
    [
        ([turn_with(1, (BAD,)), turn_with(2, ())], 0),
        ([turn_with(1, (BAD, BAD)), turn_with(2, (BAD,)), turn_with(3, (GOOD,)), turn_with(4, ())], 1),
        ([turn_with(1, (BAD, GOOD)), turn_with(2, ())], 1),
        ([turn_with(1, (GOOD,)), turn_with(2, (GOOD,), run=False)], 1),  # the turn limit: not run
        ([turn_with(1, (GOOD,)), turn_with(2, (GOOD,), stop=13)], 1),  # the ledger ends with the call
        ([turn_with(1, (GOOD,)), turn_with(2, (GOOD,), stop=12)], 2),  # one token of results is there
    ],
)
def test_a_round_is_a_readable_call_and_results_that_fit(turns: list[Turn], rounds: int) -> None:
    assert tool_rounds(of_turns(turns)) == rounds


CALLED, UNKNOWN = render_call(GOOD), render_call(ToolCall("python3", {}))
BROKEN = "<tool_call>{</tool_call>"


@pytest.mark.parametrize(
    ("turns", "result", "rounds", "stop"),
    [
        (["done"], "5", 0, StopReason.ANSWER),
        ([CALLED + CALLED, "done"], "5", 1, StopReason.ANSWER),
        ([BROKEN, BROKEN, CALLED, "done"], "5", 1, StopReason.ANSWER),
        ([BROKEN + CALLED, UNKNOWN, "done"], "5", 2, StopReason.ANSWER),
        (["<think>" + CALLED, "done"], "5", 0, StopReason.ANSWER),
        ([CALLED, CALLED], "5", 1, StopReason.MAX_TURNS),
        ([CALLED, "done"], "5" * 900, 0, StopReason.LENGTH),
        ([CALLED, CALLED, "done"], "5" * 500, 1, StopReason.LENGTH),
    ],
)
def test_rounds_of_played_episodes(chat: Chat, turns: list[str], result: str, rounds: int, stop: StopReason) -> None:
    """Calls, malformed and unknown ones, turns that are not run and results that do not fit, as they are recorded."""
    trajectory, _ = played(chat, turns, max_response_tokens=800, result=result)
    assert (tool_rounds(trajectory), trajectory.stop) == (rounds, stop)


@pytest.mark.parametrize("rounds", range(12))
def test_a_round_earns_what_the_authors_count_of_turns_earns(rounds: int) -> None:
    """verl counts the prompt, each assistant turn and each round of results; ReTool's `compute_score` does the rest."""
    num_turns = 1 + (rounds + 1) + rounds
    assert failed_reward(rounds) == min(-0.6, -1.0 + (num_turns - 2) / 2 * 0.1)


def test_the_bonus_never_reaches_the_score_of_a_right_answer() -> None:
    assert max(failed_reward(rounds) for rounds in range(200)) == -0.6


@pytest.mark.parametrize("wrong", [0.0, -0.5, -2.0])
def test_another_score_of_wrong_answers_is_refused_with_the_bonus(wrong: float) -> None:
    with pytest.raises(SodError, match=r"reward\.wrong.*reward\.tool_bonus.*leave reward\.wrong out"):
        Shaping(wrong=wrong, tool_bonus=True)
    assert shaped_reward(False, episode([1]), Shaping(wrong=wrong)) == wrong


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
    shaping = Shaping(0.7, -1.0 if tool_bonus_on else -0.3, tool_bonus_on, buffer, 100)
    for calls in range(12):
        for tokens in (0, 37, 94, 97, 99, 100, 101):
            played = episode([1] * calls, tokens)
            failed = failed_reward(tool_rounds(played)) if tool_bonus_on else -0.3
            score = 0.7 if correct else failed
            assert shaped_reward(correct, played, shaping) == score + overlong_penalty(tokens, 100, buffer)


def test_only_what_is_switched_on_is_a_part() -> None:
    assert reward_parts(False, episode([1]), Shaping()) == {"outcome": -1.0}
    parts = reward_parts(False, episode([1, 1], 15), Shaping(1.0, -1.0, True, 10, 20))
    assert parts == {"outcome": -1.0, "tool_bonus": pytest.approx(0.2), "overlong": -0.5}
    assert list(parts) == ["outcome", "tool_bonus", "overlong"]
