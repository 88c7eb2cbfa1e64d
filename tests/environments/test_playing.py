"""Players without a model: the expert and the random one through the runner, and what a person types."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pytest

from environment_games import ADD, Counter
from sod.environments.base import Action
from sod.environments.playing import Game, episodes
from sod.environments.typed import TypedError, shown_action, typed_action, usage
from sod.environments.worlds import Worlds
from sod.records import SodError, Task, ToolCall

LONGER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "buy",
        "description": "Buy.",
        "parameters": {"properties": {"what": {"type": "string"}, "count": {"type": "integer"}}},
    },
}
TASKS = [Task(f"t{number}", (), "", extra={"goal": number}) for number in range(1, 6)]


def add(number: int) -> Action:
    return (ToolCall("add", {"number": number}),)


class Known(Counter):
    """The counting game with an expert that goes there in steps of two, and choices."""

    def expert(self) -> Action:
        return add(min(2, self.goal_now - self.total))

    async def choices(self) -> Sequence[Action]:
        return [add(1), add(7)]


class Stuck(Known):
    async def choices(self) -> Sequence[Action]:
        return []


def test_the_expert_plays_every_task_many_side_by_side() -> None:
    with closing(Worlds(Known)) as worlds:
        played = list(episodes(worlds, TASKS, "expert", 0, 10, at_once=2))
    found = {one.task.id: [move.action[0].arguments["number"] for move in one.moves] for one in played}  # type: ignore[union-attr]
    assert found == {"t1": [1], "t2": [2], "t3": [2, 1], "t4": [2, 2], "t5": [2, 2, 1]}
    assert [(one.reward, one.done) for one in played] == [(1.0, True)] * 5


def test_a_random_player_draws_from_the_choices_and_is_given_up_in_the_end() -> None:
    with closing(Worlds(lambda: Known(goal=50))) as worlds:
        once, again, other = (list(episodes(worlds, TASKS, "random", seed, 6, 16)) for seed in (0, 0, 1))
    assert once == again
    assert [one.moves for one in once] != [one.moves for one in other]
    assert {len(one.moves) for one in once} == {6}
    assert [one.done for one in once] == [False] * 5
    drawn = {move.action[0].arguments["number"] for one in once for move in one.moves}  # type: ignore[union-attr]
    assert drawn == {1, 7}


@pytest.mark.parametrize(
    ("world", "player", "said"),
    [
        (Counter, "expert", r"Counter has no expert\(\)"),
        (Counter, "random", r"Counter has no choices\(\)"),
        (Stuck, "random", "task t1: .*nothing that can be done"),
        (lambda: Known(broken="step"), "expert", "episode t1#0: step: RuntimeError: the counter is jammed"),
    ],
)
def test_what_keeps_a_player_from_playing_is_told(world: Any, player: Any, said: str) -> None:
    with closing(Worlds(world)) as worlds, pytest.raises(SodError, match=said):
        list(episodes(worlds, TASKS, player, 0, 10, 4))


def test_a_game_by_hand() -> None:
    with closing(Worlds(Known)) as worlds:
        game = Game(worlds, TASKS[2], 0)
        assert game.begin().observation == "Count to 3."
        assert game.act(add(1)).results[0].text == "The counter is at 1."
        assert game.advised("expert") == (add(2),)
        game.act(add(2))
        assert (game.turns, game.done, game.end()) == (2, True, 1.0)


@pytest.mark.parametrize(
    ("line", "action"),
    [
        ("add 3", add(3)),
        ("add number=3", add(3)),
        ('add {"number": 3}', add(3)),
        ("add three", (ToolCall("add", {"number": "three"}),)),
        ("add", (ToolCall("add", {}),)),
        ("buy 'red shoes' 2", (ToolCall("buy", {"what": "red shoes", "count": 2}),)),
        ("buy count=2 what=12", (ToolCall("buy", {"count": 2, "what": "12"}),)),
        ("  adding it up ", "adding it up"),
        ("search[red shoes]", "search[red shoes]"),
    ],
)
def test_what_is_typed_is_a_call_or_is_said(line: str, action: Action) -> None:
    tools = [{"type": "function", "function": ADD["function"]}, LONGER]
    assert typed_action(line, tools) == action
    assert isinstance(action, str) or typed_action(shown_action(action), tools) == action


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("buy red shoes 2", "takes 2 arguments"),
        ('add {"number"', "no JSON object"),
        ("add {3}", "no JSON object"),
        ("buy 'red", "cannot be split"),
    ],
)
def test_a_call_that_cannot_be_read_is_told(line: str, said: str) -> None:
    with pytest.raises(TypedError, match=said):
        typed_action(line, [ADD, LONGER])


def test_how_a_call_is_typed() -> None:
    assert [usage(tool) for tool in (ADD, LONGER)] == ["add NUMBER", "buy WHAT COUNT"]
