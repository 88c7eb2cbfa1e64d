"""What a run's episodes make us say, and that each thing is said once."""

from __future__ import annotations

import pytest

from sod.evaluation.hints import Hints
from sod.recipe import RewardSpec
from sod.records import Group, Message, StopReason, Task, ToolResult, Trajectory, Turn


def episode(
    answer: str | None = "5",
    reward: float = -1.0,
    correct: bool = False,
    stop: StopReason = StopReason.ANSWER,
    errors: tuple[str | None, ...] = (),
) -> Trajectory:
    """An episode of one turn, each of whose calls came back with one of `errors`."""
    results = tuple(ToolResult("", error) for error in errors)
    turn = Turn(1, 1, 2, "", results=results)
    return Trajectory("t", 0, 1, (1, 2), (0, 1), (0.0, -1.0), (turn,), stop, answer, correct, reward)


def task() -> Task:
    return Task("t", (Message("user", "?"),), "5")


def told(*groups: list[Trajectory], reward: RewardSpec | None = None) -> list[str]:
    """What is said of these groups, looked at twice, as two steps would be."""
    heard: list[str] = []
    hints = Hints(reward or RewardSpec(), heard.append)
    for _ in range(2):
        hints.look([task()] * len(groups), [Group("t", tuple(group)) for group in groups])
    return heard


GOOD = [episode(reward=1.0, correct=True), episode()]


def test_nothing_is_said_of_what_is_well() -> None:
    assert told(*[[*GOOD, episode(None), episode(errors=("timeout", None))]] * 8) == []


@pytest.mark.parametrize(
    ("verifier", "reads"), [("math", "\\boxed{}"), ("choice", "a letter in \\boxed{}"), ("code", "fenced Python block")]
)
def test_no_readable_answer(verifier: str, reads: str) -> None:
    """With what the verifier reads; once, though there were two steps."""
    spec = RewardSpec.model_validate({"verifier": verifier})
    (line,) = told(*[[episode(None), episode(None, reward=1.0)]] * 8, reward=spec)
    assert line.startswith("0 of 16 episodes gave a readable answer")
    assert reads in line
    assert "reward.verifier" in line


@pytest.mark.parametrize(("right", "advice"), [(True, "harder tasks"), (False, "easier tasks")])
def test_flat_groups(right: bool, advice: str) -> None:
    """80% and more of the groups that can be compared; a group of one cannot."""
    flat = [episode(reward=1.0, correct=True)] * 2 if right else [episode()] * 2
    (line,) = told(*[flat] * 8, GOOD, [episode()])
    assert line.startswith("89% of groups are flat")
    assert advice in line
    assert "rollout.samples" in line
    assert told(*[flat] * 6, *[GOOD] * 2) == []


def test_flat_groups_say_nothing_where_rewards_are_not_compared() -> None:
    heard: list[str] = []
    Hints(RewardSpec(), heard.append, compares=False).look([task()] * 8, [Group("t", (episode(), episode()))] * 8)
    assert heard == []


@pytest.mark.parametrize(
    ("error", "key"), [("timeout", "timeout_seconds"), ("memory", "memory_mb"), ("invalid_json", "sod sft")]
)
def test_every_call_failed(error: str, key: str) -> None:
    (line,) = told(*[[episode(errors=(error,), reward=1.0), episode(errors=(error,))]] * 4)
    assert line.startswith(f"every one of 8 tool calls failed, 8 of them with {error}")
    assert key in line


@pytest.mark.parametrize(
    ("stop", "key"), [(StopReason.LENGTH, "rollout.max_response_tokens"), (StopReason.MAX_TURNS, "rollout.max_turns")]
)
def test_episodes_that_end_at_a_limit(stop: StopReason, key: str) -> None:
    """That they gave no answer needs no saying then."""
    ended = [episode(None, stop=stop), episode(None, stop=stop, reward=0.5)]
    (line,) = told(*[ended] * 8)
    assert line.startswith("100% of 16 episodes")
    assert key in line


def test_of_a_handful_nothing_is_said() -> None:
    assert told(*[[episode(None, errors=("timeout",))]] * 7) == []
