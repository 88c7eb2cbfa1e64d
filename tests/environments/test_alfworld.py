"""ALFWorld's games, played in TextWorld: what comes of commands, who wins, and that nothing was lost for speed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from sod.environments.alfworld import AlfWorld
from sod.environments.alfworld_games import PROCESSES, Game, Source, package_source
from sod.environments.alfworld_problems import KINDS, problem
from sod.environments.alfworld_rooms import package_folder
from sod.environments.base import Action, Closes, HasChoices, HasExpert, OffersTasks, Replays, Reset, Step, WorldRequest
from sod.environments.worlds import Worlds
from sod.records import Fault, Task, ToolCall, ToolFault

pytestmark = pytest.mark.slow  # a process that loads TextWorld takes seconds

REFERENCE = """
import json, sys
import textworld
from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
from textworld.envs.pddl import PddlEnv

game = json.load(sys.stdin)
env = AlfredDemangler(PddlEnv(textworld.EnvInfos(admissible_commands=True)))
env.load(game["data"])
state = env.reset()
told = [[state.feedback, state["admissible_commands"], bool(state["won"])]]
for command in game["commands"]:
    state, _, _ = env.step(command)
    told.append([state.feedback, state["admissible_commands"], bool(state["won"])])
print("told" + json.dumps(told))
"""
"""TextWorld as it is, with ALFWorld's names; none of our code."""


@pytest.fixture(scope="module", autouse=True)
def _package() -> None:
    pytest.importorskip("alfworld")


def source(number: int, kinds: tuple[str, ...] = KINDS, split: str = "train") -> Source:
    made = problem(0, split, number, kinds)
    return Source(*package_source(), made.pddl, made.text)


def command_of(action: Action) -> str:
    assert not isinstance(action, str)
    return str(action[0].arguments["command"])


def act(command: Any) -> tuple[ToolCall, ...]:
    return (ToolCall("act", {"command": command}),)


def texts(told: Any) -> list[str]:
    return [told] if isinstance(told, str) else [result.text for result in told]


def played(world: AlfWorld, task: Task, random: Random | None, turns: int) -> tuple[list[Action], list[str], float]:
    """The actions of the expert or a random player, what was read, and what was earned."""
    begun = world.reset(task, 1)[0]
    actions: list[Action] = []
    read, earned, done = [begun], 0.0, False
    while not done and len(actions) < turns:
        actions.append(random.choice(world.choices()) if random else world.expert())
        told, reward, done = world.step(actions[-1])
        read += texts(told)
        earned += reward
    return actions, read, earned


def test_the_expert_wins_tasks_of_every_kind_and_a_random_player_does_not() -> None:
    world = AlfWorld(validation=12)
    assert all(isinstance(world, able) for able in (OffersTasks, HasExpert, HasChoices, Replays, Closes))
    lost = 0
    for task in world.tasks("validation"):
        assert played(world, task, None, 50)[2] == 1.0, task.id
        lost += played(world, task, Random(task.id), 20)[2] == 0.0
    assert lost >= 11
    world.close()


def test_the_expert_wins_from_wherever_a_random_player_left_the_house() -> None:
    world = AlfWorld(train=12)
    for task in world.tasks("train")[6:]:
        _, _, earned = played(world, task, Random(f"astray {task.id}"), 15)
        while earned == 0.0:
            action = world.expert()
            assert action in world.choices(), command_of(action)
            _, earned, _ = world.step(action)
    world.close()


def test_the_planner_solves_every_kind_and_is_no_longer_than_a_search() -> None:
    planner, searcher = AlfWorld(expert="planner"), AlfWorld()
    for number in (0, 1, 2, 3, 4, 17):
        task = Task(f"{number}", (), "", extra={"split": "validation", "number": number})
        plan, _, earned = played(planner, task, None, 20)
        assert earned == 1.0
        assert len(plan) <= len(played(searcher, task, None, 50)[0])
    planner.close()
    searcher.close()


def test_what_is_told_is_what_textworld_tells_by_itself() -> None:
    made = problem(0, "validation", 1)  # a lamp: look_at_obj_in_light has the fewest commands to word
    domain, grammar = package_source()
    world = AlfWorld()
    task = Task("t", (), "", extra={"split": "validation", "number": 1})
    way = [command_of(action) for action in played(world, task, None, 50)[0]]
    commands = ["help", "inventory", "go to the moon", way[0], "look", *way[1:-1], "inventory", way[-1]]
    game = Game()
    begun = game.begin(Source(domain, grammar, made.pddl, made.text))
    ours = [begun, *(game.act(command) for command in commands)]
    data = {"pddl_domain": domain, "grammar": grammar.replace("UNKNOWN GOAL", made.text), "pddl_problem": made.pddl}
    done = subprocess.run(
        [sys.executable, "-c", REFERENCE],
        input=json.dumps({"data": data, "commands": commands}),
        env={**os.environ, "PYTHONHASHSEED": "0", "ALFWORLD_DATA": str(package_folder() / "data")},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    theirs = json.loads(done.stdout.partition("told")[2])
    for seen, (feedback, admissible, won) in zip(ours, theirs, strict=True):
        assert (seen.text, list(seen.commands), seen.won) == (feedback, admissible, won)
    assert ours[3].text == "Nothing happens."
    assert ours[-1].won
    game.end()
    world.close()


def test_replay_leads_to_the_same_state_also_in_another_world() -> None:
    world, other = AlfWorld(), AlfWorld()
    for number in (1, 8):
        task = Task(f"{number}", (), "", extra={"split": "train", "number": number})
        actions, read, _ = played(world, task, Random(number), 12)
        other.reset(task, 2)
        other.replay(actions)
        assert other.choices() == world.choices()
        assert other._game.facts() == world._game.facts()
        assert other.expert() == world.expert()
        assert texts(other.step(act("look"))[0]) == texts(world.step(act("look"))[0])
        assert played(other, task, Random(number), 12)[1] == read
    world.close()
    other.close()


def test_another_process_tells_the_same_in_the_same_order() -> None:
    made = source(3)
    commands = ["go to countertop 1", "go to countertop 2", "go to fridge 1", "open fridge 1"]
    game, process = Game(), type(PROCESSES[0])()
    mine = [game.begin(made).text, *(game.act(command).text for command in commands)]
    begin = {"do": "begin", "game": 1, "domain": made.domain, "grammar": made.grammar, "problem": made.problem}
    asked = [begin, *({"do": "act", "game": 1, "command": command} for command in commands)]
    theirs = [process.ask(request)[0]["text"] for request in asked]
    process.end()
    assert theirs == [mine[0].replace(made.task, "UNKNOWN GOAL"), *mine[1:]]
    assert any(len(re.findall(r"\ba [a-z]+ \d", text)) > 2 for text in theirs[1:])  # there is an order
    game.end()


def test_episodes_side_by_side_are_as_each_is_alone() -> None:
    world = AlfWorld(train=6)
    tasks = world.tasks("train")
    alone = [played(world, task, None, 50) for task in tasks]
    worlds = Worlds(AlfWorld, seconds=300)
    begun = worlds.run([WorldRequest(task.id, Reset(task, 1)) for task in tasks])
    read = {task.id: [reply.observation] for task, reply in zip(tasks, begun, strict=True)}  # type: ignore[union-attr]
    for turn in range(max(len(actions) for actions, _, _ in alone)):
        going = [
            (task, actions[turn]) for task, (actions, _, _) in zip(tasks, alone, strict=True) if turn < len(actions)
        ]
        replies = worlds.run([WorldRequest(task.id, Step(action)) for task, action in going])
        for (task, _), reply in zip(going, replies, strict=True):
            assert not isinstance(reply, Fault)
            read[task.id] += [result.text for result in reply.results]  # type: ignore[union-attr]
    assert list(read.values()) == [texts_read for _, texts_read, _ in alone]
    worlds.close()
    world.close()


def test_commands_are_said_where_no_tool_is_shown_and_offered_where_they_are_asked_for() -> None:
    world = AlfWorld(tools=False, admissible=True)
    task = Task("t", (), "", extra={"split": "validation", "number": 1})
    begun, tools = world.reset(task, 1)
    assert tools == []
    assert "<action>go to desk 1</action>" in begun
    offered = re.findall(r"go to [a-z]+ \d+", begun.partition("You can: ")[2].partition(".")[0])
    text, reward, done = world.step(f"I begin there. <action>{offered[0]}</action>")
    assert isinstance(text, str)
    assert text.startswith(f"You arrive at {offered[0].removeprefix('go to ')}.")
    assert (reward, done) == (0.0, False)
    assert world.step("what now?")[0] != "Nothing happens."  # what can be done is told again
    while not done:
        text, reward, done = world.step(world.expert())
    assert reward == 1.0
    assert "You can: " not in str(text)
    world.close()


def test_calls_of_a_turn_after_the_last_one_earn_nothing_more() -> None:
    world = AlfWorld()
    task = Task("t", (), "", extra={"split": "validation", "number": 1})
    actions, _, _ = played(world, task, None, 50)
    world.reset(task, 1)
    world.replay(actions[:-1])
    last = command_of(actions[-1])
    results, reward, done = world.step((*act(7), *act(last.upper()), *act(last)))
    assert not isinstance(results, str)
    assert [result.error for result in results] == ["wrong_arguments", None, None]
    assert (results[2].text, reward, done) == ("The task is done.", 1.0, True)
    assert world.step(act(last))[1] == 0.0
    world.close()


def older(grammar: str) -> str:
    """The wording of the games that were released first."""
    for now, before in (
        ("move {o} to {r}", "put {o} in/on {r}"),
        ("You move the {o.name} to the {r.name}.", "You put {o.name} in/on {r.name}."),
        ("The {r.name} is open. In it, you see", "In {r.name}, you see"),
        ("On the {r.name}, you see", "On {r.name}, you see"),
    ):
        assert now in grammar
        grammar = grammar.replace(now, before)
    return grammar


def test_a_game_file_with_original_names_and_older_words_is_played(tmp_path: Path) -> None:
    made = problem(0, "train", 0)
    domain, grammar = package_source()
    names = re.sub(r"([A-Z]\w+?)_bar_(\d\d)\b", r"\1_bar__plus_00_dot_\2_bar__minus_01_dot_50", made.pddl)
    assert "_bar__plus_00_dot_01_bar__minus_01_dot_50 - receptacle" in names
    words = older(grammar).replace("UNKNOWN GOAL", "put it where it belongs")
    data = {"pddl_domain": domain, "grammar": words, "pddl_problem": names, "solvable": True}
    file = tmp_path / "train" / "pick_and_place_simple-X-None-Y-1" / "trial" / "game.tw-pddl"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(data))
    world = AlfWorld(games=str(tmp_path))
    (task,) = world.tasks("train")
    begun, (tool,) = world.reset(task, 1)
    assert begun.endswith("Your task is to: put it where it belongs.")
    assert "put (object) in/on (receptacle)" in tool["description"]
    actions, read, earned = played(world, task, None, 50)
    assert earned == 1.0
    assert command_of(actions[-1]).startswith("put ")
    assert read[-1].startswith("You put ")
    world.close()


def test_a_goal_that_cannot_be_reached_and_a_lost_process_are_faults() -> None:
    made = source(0)
    game = Game()
    unreachable = re.sub(r"\(canContain .*\)\n", "", made.problem)
    with pytest.raises(ToolFault, match="the goal cannot be reached; a thing or a canContain fact is missing"):
        game.begin(Source(made.domain, made.grammar, unreachable, made.task))
    begun = game.begin(made)
    assert game._process is not None
    game._process.end()
    with pytest.raises(ToolFault, match="the process of this game of ALFWorld is gone"):
        game.act("look")
    assert game.begin(made) == begun
    game.end()
