"""Environments of the real verifiers 0.4, played as its users wrote them: run where that package is installed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verifiers.v1")

import verifiers_games
from sod.build.environment import world_tasks
from sod.build.worlds import environment_maker, make_worlds
from sod.environments.base import Action, Began, End, Ended, Reset, Step, Stepped, WorldReply, WorldRequest
from sod.recipe import EnvironmentSpec, Recipe
from sod.records import Fault, Message, SodError, Task, ToolCall

SHELF = "verifiers_games:Shelf"
PLAIN = {"id": "verifiers_games"}


def spec(call: str, **fields: Any) -> EnvironmentSpec:
    return EnvironmentSpec.model_validate({"call": call, **fields})


def put(*numbers: int) -> tuple[ToolCall, ...]:
    return tuple(ToolCall("shelf_put", {"number": number}) for number in numbers)


def played(given: EnvironmentSpec, number: int, actions: Sequence[Action]) -> list[WorldReply | Fault]:
    """What the environment answers to a reset, these actions and the end."""
    with closing(make_worlds(given)) as worlds:
        ask = [Reset(Task("t", (), "", extra={"idx": number}), 1), *map(Step, actions), End()]
        return [worlds.run([WorldRequest("e", each)])[0] for each in ask]


def texts(reply: WorldReply | Fault) -> list[str]:
    assert isinstance(reply, Stepped), reply
    return [result.text for result in reply.results]


def test_a_taskset_with_toolsets_state_and_weighted_rewards() -> None:
    began, two, five, said, ended = played(spec(SHELF), 5, [put(2, -1), put(3), "thank you"])
    assert isinstance(began, Began)
    assert began.observation == (Message("system", "You stack."), Message("user", "Make 5."))
    assert [tool["function"]["name"] for tool in began.tools] == ["now", "shelf_put"]
    assert began.tools[1]["function"]["description"] == "Put a number on the shelf."
    assert texts(two) == ["2 of 5", "Error executing tool put: no debts"]
    assert isinstance(two, Stepped)
    assert [result.error for result in two.results] == [None, "exception"]
    assert texts(five) == ["5 of 5"]
    assert isinstance(said, Stepped)
    assert said.done
    assert ended == Ended(1.5)


def test_a_stop_of_the_task_ends_the_episode_and_the_model_reads_what_led_to_it() -> None:
    _, stepped, ended = played(spec(SHELF), 5, [put(11)])
    assert texts(stepped) == ["11 of 5"]
    assert isinstance(stepped, Stepped)
    assert stepped.done
    assert ended == Ended(0.0)


def test_an_episode_that_is_cut_off_is_scored() -> None:
    assert played(spec(SHELF), 5, [put(5)])[-1] == Ended(1.0)


def test_episodes_side_by_side_have_a_state_each_and_share_the_tasksets_tools() -> None:
    from verifiers_games import ClockTools

    before = ClockTools.setups
    with closing(make_worlds(spec(SHELF, goals=11))) as worlds:
        names = [f"e{number}" for number in range(4)]
        task = Task("t", (), "", extra={"idx": 4})
        worlds.run([WorldRequest(name, Reset(task, 1)) for name in names])
        first = worlds.run([WorldRequest(name, Step(put(at))) for at, name in enumerate(names)])
        second = worlds.run([WorldRequest(name, Step((*put(1), ToolCall("now", {})))) for name in names])
        ended = worlds.run([WorldRequest(name, End()) for name in names])
        assert [texts(reply)[0] for reply in first] == ["0 of 4", "1 of 4", "2 of 4", "3 of 4"]
        assert [texts(reply) for reply in second] == [[f"{at} of 4", "noon"] for at in (1, 2, 3, 4)]
        assert ended == [Ended(0.0), Ended(0.0), Ended(0.0), Ended(1.0)]
        worlds.finish(names)
        began, *_ = worlds.run([WorldRequest("again", Reset(task, 1))])
        assert isinstance(began, Began)
        assert texts(worlds.run([WorldRequest("again", Step(put(2)))])[0]) == ["2 of 4"]
    assert ClockTools.setups == before + 1


def test_an_env_whose_user_answers() -> None:
    guess = spec("verifiers_games:Guess", taskset=PLAIN)
    began, no, _, ended = played(guess, 0, ["1", "3"])
    assert isinstance(began, Began)
    assert began.observation == (Message("user", "Which number?"),)
    assert texts(no) == ["No."]
    assert ended == Ended(1.0)
    assert played(guess, 1, ["4"])[-1] == Ended(1.25)
    assert played(guess, 1, ["5", "6", "4"])[-1] == Ended(1.0)


def test_hooks_in_the_runtime_and_interceptors_are_the_tasks() -> None:
    _, veiled, _, ended = played(spec("verifiers_games:Watched"), 0, [put(1), "thanks"])
    assert texts(veiled) == ["?"]
    assert ended == Ended(11.5)


def test_a_taskset_in_a_file_beside_the_recipe(tmp_path: Path) -> None:
    source = "import verifiers.v1 as vf\nfrom verifiers_games import *\nfrom verifiers_games import Shelf\n\n"
    (tmp_path / "mine.py").write_text(f"{source}class Mine(Shelf):\n    pass\n")
    assert played(spec(f"{tmp_path}/mine.py:Mine"), 3, [put(3), "thanks"])[-1] == Ended(1.5)


@pytest.mark.slow
def test_a_toolset_at_a_url_is_called_there() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, verifiers_games.__file__], env=os.environ | {"MCP_PORT": str(port), "VF_CONFIG": "{}"}
    )
    try:
        limit = time.monotonic() + 120
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert server.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.2)
        remote = spec("verifiers_games:Remote", clock={"url": f"http://127.0.0.1:{port}/mcp"})
        began, noon, *_ = played(remote, 0, [(ToolCall("now", {}), *put(3))])
    finally:
        server.kill()
        server.wait()
    assert isinstance(began, Began)
    assert [tool["function"]["name"] for tool in began.tools] == ["now", "shelf_put"]
    assert texts(noon) == ["noon", "3 of 3"]


def test_what_an_env_keeps_for_all_episodes_is_started_and_stopped_once() -> None:
    kept = spec("verifiers_games:Kept", taskset=PLAIN)
    verifiers_games.Kept.log.clear()
    with closing(make_worlds(kept)) as worlds:
        for name in ("one", "two"):
            worlds.run([WorldRequest(name, Reset(Task("t", (), "", extra={"idx": 0}), 1))])
        assert verifiers_games.Kept.log == ["start"]
    assert verifiers_games.Kept.log == ["start", "stop"]


def test_the_time_that_the_model_takes_ends_no_episode() -> None:
    with closing(make_worlds(spec("verifiers_games:Hurried"))) as worlds:
        worlds.run([WorldRequest("e", Reset(Task("t", (), "", extra={"idx": 0}), 1))])
        time.sleep(0.4)
        assert texts(worlds.run([WorldRequest("e", Step(put(3)))])[0]) == ["3 of 3"]


def test_a_taskset_that_an_env_of_its_module_plays_names_it(tmp_path: Path) -> None:
    source = 'from verifiers_games import Guess, Shelf\n\n__all__ = ["Guess", "Mine"]\n\n'
    (tmp_path / "paired.py").write_text(f"{source}class Mine(Shelf):\n    pass\n")
    with pytest.raises(SodError, match="environment: Mine is played by Guess of its module: name that in environ"):
        environment_maker(spec(f"{tmp_path}/paired.py:Mine"))()


def test_an_installed_taskset_by_its_id() -> None:
    made = environment_maker(spec("sod.environments.verifiers:installed", taskset=PLAIN))()
    assert [task["idx"] for task in made.tasks("train")] == [0]  # type: ignore[attr-defined]


def test_tasks_are_split_and_named_by_their_place() -> None:
    recipe = Recipe.model_validate({"student": {"path": "m"}, "environment": {"call": SHELF, "goals": 20}})
    assert recipe.environment is not None
    for key, numbers in {"data.train": range(18), "data.validation": range(18, 20)}.items():
        tasks = world_tasks(None, key, recipe, recipe.environment, print)
        assert [task.extra["idx"] for task in tasks] == list(numbers)


@pytest.mark.parametrize(
    ("call", "fields", "said"),
    [
        (SHELF, {"gaols": 3}, "environment.gaols: Extra inputs are not permitted; see the fields of its config"),
        (SHELF, {"goals": 0}, "the taskset Shelf has no tasks"),
        ("verifiers_games:ShelfTask", {}, "ShelfTask is of verifiers; name its Taskset, or its Env with one agent"),
        ("verifiers_games:Pair", {"taskset": PLAIN}, "it has 2 agents .one, other.; only one can be played here"),
        (
            "verifiers_games:Guess",
            {"taskset": PLAIN, "player": {"harness": {"id": "claude-code"}}},
            "its harness claude-code runs a loop of its own around the model.*environment.player.harness",
        ),
        (
            "verifiers_games:Guess",
            {"taskset": PLAIN, "player": {"harness": {"id": "bash"}}},
            "its harness bash runs a loop of its own",
        ),
        (
            "verifiers_games:Boxed",
            {},
            "^environment: its toolset ClockTools runs in docker; here a toolset runs in this",
        ),
        ("verifiers_games:Guess", {}, "needs a seed taskset"),
        ("verifiers_games:Guess", {"taskset": {"id": "nowhere-v1"}}, "taskset 'nowhere-v1' not found"),
    ],
)
def test_what_cannot_be_played_is_refused_in_one_line(call: str, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(SodError, match=said) as refused:
        environment_maker(spec(call, **fields))()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("call", "actions", "said"),
    [
        ("Twice", [], "reset: two tools are named 'shelf_put'; give one toolset another TOOL_PREFIX"),
        ("Unprepared", [], "reset: ToolFault: TaskError: task setup: OSError: no wood"),
        ("Broken", ["done"], "ZeroDivisionError: no shelf"),
        ("Nan", ["done"], "end: a reward of nan is none; return a finite number"),
    ],
)
def test_what_fails_in_it_is_a_fault_that_says_where(call: str, actions: Sequence[Action], said: str) -> None:
    faults = [reply for reply in played(spec(f"verifiers_games:{call}"), 0, actions) if isinstance(reply, Fault)]
    assert said in faults[0].detail


def test_an_env_that_runs_its_agent_twice_is_a_fault() -> None:
    fault = played(spec("verifiers_games:Again", taskset=PLAIN), 0, ["one"])[1]
    assert isinstance(fault, Fault)
    assert "it runs its agent more than once in an episode" in fault.detail
