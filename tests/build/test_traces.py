"""What a world's expert does, as conversations: what the model would have read in the same episode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from environment_games import Counter, Parrot
from sod.build.conversations import example_of
from sod.build.playable import Playable
from sod.build.traces import traces
from sod.environments.base import Action
from sod.recipe import EnvironmentSpec
from sod.records import Message, SodError, Task, ToolCall

TASKS = [
    Task(f"t{goal}", (Message("system", "Play."), Message("user", "Game.")), "", extra={"goal": goal})
    for goal in (2, 3, 4)
]


class Known(Counter):
    """Counts in twos, so that an odd goal is missed."""

    def expert(self) -> Action:
        return (ToolCall("add", {"number": 2}),)


class Pair(Counter):
    """Makes two calls at once."""

    def expert(self) -> Action:
        return (ToolCall("add", {"number": 1}), ToolCall("add", {"number": self.goal_now - self.total - 1}))


class Talking(Parrot):
    async def expert(self) -> Action:
        return "hello" if not self.heard else "word"


def played(world: Any, tasks: Sequence[Task] = TASKS, success: float = 1.0) -> Any:
    spec = EnvironmentSpec.model_validate({"call": world, "success": success})
    return traces(Playable(spec, tasks), 0, 10, "the world")


def test_only_what_reached_the_goal_is_kept_in_the_order_of_the_tasks() -> None:
    found = played(Known)
    assert found.played == 3
    assert [(one.id, one.reward) for one in found.conversations] == [("t2", 1.0), ("t4", 1.0)]


def test_a_conversation_is_what_was_read_and_said(chat: Any) -> None:
    conversation = played(Known).conversations[1]
    call = ToolCall("add", {"number": 2})
    assert conversation.messages == (
        Message("system", "Play."),
        Message("user", "Game.\n\nCount to 4."),
        Message("assistant", "", (call,)),
        Message("tool", "The counter is at 2.", name="add"),
        Message("assistant", "", (call,)),
    )
    example = example_of(conversation, chat)
    assert sorted(set(example.turn_ids)) == [0, 1, 2]


def test_every_call_of_a_turn_has_its_result() -> None:
    (first, *_) = played(Pair).conversations
    assert [message.role for message in first.messages] == ["system", "user", "assistant"]
    assert len(first.messages[-1].tool_calls) == 2


def test_in_a_world_without_tools_the_user_answers(chat: Any) -> None:
    (conversation,) = played(Talking, TASKS[:1]).conversations
    assert conversation.tools == ()
    assert [(message.role, message.content) for message in conversation.messages[1:]] == [
        ("user", "Game.\n\nSay the word."),
        ("assistant", "hello"),
        ("user", "You said hello"),
        ("assistant", "word"),
    ]
    assert conversation.reward == 1.5
    assert sorted(set(example_of(conversation, chat).turn_ids)) == [0, 1, 2]


def test_an_expert_that_never_reaches_the_goal_is_an_error() -> None:
    with pytest.raises(
        SodError, match=r"the world: its expert reached environment.success=2 in none of 3 episodes, the"
    ):
        played(Known, success=2.0)
