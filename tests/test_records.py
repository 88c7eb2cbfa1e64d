"""Records: a conversation read back from what an episode left, and scores."""

from __future__ import annotations

import pytest

from sod.records import (
    Episode,
    Fault,
    FaultKind,
    MalformedCall,
    Message,
    Said,
    StopReason,
    Task,
    ToolCall,
    ToolResult,
    Trajectory,
    Turn,
    Verdict,
    may_retry,
)

PROMPT = (Message("system", "Be brief."), Message("user", "1+1"))
CALL = ToolCall("python", {"code": "print(1+1)"})


def played(*turns: Turn) -> Episode:
    trajectory = Trajectory("t", 0, 1, (7,), (0,), (0.0,), turns, StopReason.ANSWER)
    return Episode(Task("t", PROMPT, "2"), trajectory)


def test_an_episode_as_messages() -> None:
    """Prompt, turns with thoughts and calls, tool results by name; a call that could not be read stays text."""
    bad = "<tool_call>{</tool_call>"
    first = Said("hm", f"so {bad}", (CALL, MalformedCall("invalid_json", "no")))
    results = (ToolResult("2"), ToolResult("Error: invalid_json: no", "invalid_json"))
    episode = played(
        Turn(1, 1, 2, "", (CALL, ToolCall("", {})), results, first),
        Turn(2, 2, 3, "", said=Said("", "\\boxed{2}")),
    )
    assert episode.messages == (
        *PROMPT,
        Message("assistant", f"so {bad}", (CALL,), reasoning="hm"),
        Message("tool", "2", name="python"),
        Message("tool", "Error: invalid_json: no"),
        Message("assistant", "\\boxed{2}"),
    )


def test_a_call_that_was_not_run_has_no_result_message() -> None:
    episode = played(Turn(1, 1, 2, "", (CALL,), said=Said("", "", (CALL,))))
    assert episode.messages == (*PROMPT, Message("assistant", "", (CALL,)))


@pytest.mark.parametrize(("score", "correct"), [(0.0, False), (0.5, False), (0.999, False), (1.0, True), (1.5, True)])
def test_only_a_full_score_is_correct(score: float, correct: bool) -> None:
    assert Verdict("2", score).correct is correct


def test_what_may_be_retried() -> None:
    assert may_retry(Fault(FaultKind.SERVER, "x"))
    assert not may_retry(Fault(FaultKind.SERVER, "x", retryable=False))
    assert not may_retry(ToolResult("x", "timeout"))
