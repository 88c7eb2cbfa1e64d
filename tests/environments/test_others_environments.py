"""Adapters: what stands between an environment of ours and what is written for TRL, Gymnasium, GEM or OpenEnv."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from environment_games import Counter, GymCounter, TrlCounter, Untyped
from sod.environments.adapt import adapted, interface_of
from sod.environments.base import Action, Began, End, Ended, Environment, Reset, Step, Stepped, WorldReply, WorldRequest
from sod.environments.worlds import Worlds
from sod.records import Fault, SodError, Task, ToolCall


@dataclass
class Client:
    """The synchronous part of an OpenEnv client: every reset and step gives what a server would."""

    actions: list[Any] = field(default_factory=list)

    def reset(self, **options: Any) -> Any:
        return SimpleNamespace(observation={"text": f"seed {options['seed']}"}, reward=None, done=False)

    def step(self, action: Any) -> Any:
        self.actions.append(action)
        done = len(self.actions) == 2
        return SimpleNamespace(observation={"echo": action, "metadata": {"n": 1}}, reward=0.5, done=done)

    def close(self) -> None:
        self.actions.append("closed")


def asked(make: Any, interface: str, actions: Sequence[Action], extra: Any = None) -> list[WorldReply | Fault]:
    """What an environment answers to a reset with seed 5, these actions and the end."""
    task = Task("t", (), "", extra=extra or {})
    worlds = Worlds(lambda: adapted(make(), interface, "here"))
    replies = worlds.run([WorldRequest("e", Reset(task, 5))])
    for action in actions:
        replies += worlds.run([WorldRequest("e", Step(action))])
    replies += worlds.run([WorldRequest("e", End())])
    worlds.finish(["e"])
    worlds.close()
    return replies


def texts(reply: WorldReply | Fault) -> list[str]:
    assert isinstance(reply, Stepped), reply
    return [result.text for result in reply.results]


@pytest.mark.parametrize(("made", "interface"), [(Counter(), "own"), (TrlCounter(), "trl"), (GymCounter(), "gym")])
def test_the_methods_tell_what_an_object_is_written_for(made: Any, interface: str) -> None:
    assert interface_of(made, "here") == interface


def test_an_object_that_is_not_of_verifiers_is_refused_as_such() -> None:
    with pytest.raises(SodError, match="here: makes a Counter, which is not of verifiers; name a Taskset or an Env"):
        adapted(Counter(), "verifiers", "here")


def test_openenv_sends_what_is_said_and_reads_text_or_shows_json() -> None:
    client = Client()
    began, first, second, ended = asked(lambda: client, "openenv", ["hello", '{"x": 1}'])
    assert began == Began("seed 5", ())
    assert json.loads(texts(first)[0]) == {"echo": {"message": "hello"}}
    assert json.loads(texts(second)[0]) == {"echo": {"x": 1}}
    assert isinstance(second, Stepped)
    assert (second.reward, second.done) == (0.5, True)
    assert ended == Ended()
    assert client.actions[-1] == "closed"


def test_the_row_goes_before_the_episode_where_both_have_a_seed() -> None:
    assert asked(Client, "openenv", [], {"seed": 9})[0] == Began("seed 9", ())
    assert asked(GymCounter, "auto", [], {"seed": 2})[0] == Began("Say 3.", ())


def test_trl_ends_at_a_turn_without_a_call_and_rewards_once() -> None:
    _, called, said, ended = asked(TrlCounter, "auto", [(ToolCall("add", {"number": 2}),), "bye"], {"goal": 2})
    assert texts(called) == ["The counter is at 2."]
    assert isinstance(said, Stepped)
    assert said.done
    assert ended == Ended(1.0)


def test_a_tool_of_trls_without_type_hints_is_refused_by_name() -> None:
    with pytest.raises(SodError, match=r"here: its tool jump: Argument far is missing a type hint"):
        adapted(Untyped(), "auto", "here")


def test_numbered_actions_of_the_real_gymnasium() -> None:
    gymnasium = pytest.importorskip("gymnasium")
    replies = asked(lambda: gymnasium.make("Blackjack-v1"), "auto", ["what?", "I stick: 0"])
    assert texts(replies[1]) == ["Say one whole number from 0 to 1."]
    assert isinstance(replies[2], Stepped)
    assert replies[2].done


def test_actions_that_cannot_be_said_are_refused_in_the_real_gymnasium() -> None:
    gymnasium = pytest.importorskip("gymnasium")
    with pytest.raises(SodError, match=r"here: its action space is Box; here actions are text or one number .Discrete"):
        adapted(gymnasium.make("MountainCarContinuous-v0"), "auto", "here")


def test_observations_and_seeds_of_the_real_gymnasium() -> None:
    gymnasium = pytest.importorskip("gymnasium")

    def walked(seed: int) -> list[WorldReply | Fault]:
        return asked(lambda: gymnasium.make("FrozenLake-v1"), "auto", ["go 2", "2", "1"], {"seed": seed})

    assert walked(5) == walked(5)
    assert len({str(walked(seed)) for seed in range(5)}) > 1
    assert walked(5)[0] == Began("0", ())


def test_games_of_the_real_gem() -> None:
    gem = pytest.importorskip("gem")
    began, first, *_ = asked(lambda: gem.make("game:GuessTheNumber-v0-easy"), "auto", ["\\boxed{5}"], {"seed": 5})
    assert isinstance(began, Began)
    assert "Guess The Number" in str(began.observation)
    assert "guessed" in texts(first)[0]


def test_the_real_openenv_client_is_known_by_its_class() -> None:
    clients = pytest.importorskip("openenv.core.generic_client")
    made = clients.GenericEnvClient("http://127.0.0.1:9")
    assert interface_of(made, "here") == "openenv"
    world: Environment = adapted(made, "auto", "here")
    worlds = Worlds(lambda: world)
    (reply,) = worlds.run([WorldRequest("e", Reset(Task("t", (), ""), 1))])
    assert isinstance(reply, Fault)
    assert "ConnectionError" in reply.detail
