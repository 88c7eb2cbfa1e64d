"""What every world of the catalogue has to keep: the same by its seed, exact replay, tasks an expert can do.

A new world is one line of `TRIALS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from sod.build.pace import pace
from sod.build.playable import Playable
from sod.build.worlds import own_tasks
from sod.environments.base import Advise, Replay, Reset, Step, WorldRequest
from sod.environments.catalogue import CATALOGUE
from sod.environments.playing import Played, Player, episodes
from sod.recipe import EnvironmentSpec
from sod.records import Fault

MAX_TURNS = 60


@dataclass(frozen=True)
class Trial:
    """A world as small as its tests need it; `luck` is the share of episodes that a random player may win."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    luck: float = 0.1
    slow: bool = False


TRIALS = [
    Trial("searchqa", {"people": 40, "train": 20, "validation": 10}),
    Trial("searchqa", {"people": 40, "train": 20, "validation": 10, "hops": 3, "tools": False}),
    Trial("webshop", {"products": 60, "kinds": 6, "train": 20, "validation": 10}),
    Trial("webshop", {"products": 60, "kinds": 6, "train": 20, "validation": 10, "tools": False}),
    Trial("alfworld", {"train": 6, "validation": 6}, slow=True),
]
EVERY = [
    pytest.param(trial, id=f"{trial.name}-{number}", marks=[pytest.mark.slow] if trial.slow else [])
    for number, trial in enumerate(TRIALS)
]


def opened(trial: Trial, split: str = "train") -> Playable:
    spec = EnvironmentSpec.model_validate({"call": trial.name, **trial.arguments})
    return Playable(spec, own_tasks(spec, 0, split))


def played(world: Playable, player: Player, seed: int = 1, max_turns: int = MAX_TURNS) -> list[Played]:
    """Every task once, in the order of the tasks."""
    with world.worlds() as worlds:
        every = list(episodes(worlds, world.tasks, player, seed, max_turns, 8))
    order = [task.id for task in world.tasks]
    return sorted(every, key=lambda one: order.index(one.task.id))


def asked(worlds: Any, *dos: Any) -> list[Any]:
    """What one episode's requests were answered, one after the other."""
    replies = [worlds.run([WorldRequest("episode", do)])[0] for do in dos]
    assert [reply for reply in replies if isinstance(reply, Fault)] == []
    return replies


def halves(episode: Played) -> tuple[Sequence[Any], Sequence[Any]]:
    middle = len(episode.moves) // 2
    return episode.moves[:middle], episode.moves[middle:]


def test_every_world_of_the_catalogue_is_tried() -> None:
    assert {trial.name for trial in TRIALS} == {world.name for world in CATALOGUE}
    assert [world.name for world in CATALOGUE if world.missing()] == []


@pytest.mark.parametrize("trial", EVERY)
def test_tasks_are_the_same_every_time_and_in_one_split_alone(trial: Trial) -> None:
    train, validation = (list(opened(trial, split).tasks) for split in ("train", "validation"))
    assert train == list(opened(trial).tasks)
    ids = [task.id for task in (*train, *validation)]
    assert len(ids) == len(set(ids))
    in_train = [replace(task, id="") for task in train]
    assert [task.id for task in validation if replace(task, id="") in in_train] == []
    assert train
    assert validation


@pytest.mark.parametrize("trial", EVERY)
@pytest.mark.parametrize("player", ["expert", "random"])
def test_an_episode_is_the_same_by_its_seed(trial: Trial, player: Player) -> None:
    world = opened(trial).first(3)
    assert played(world, player, max_turns=8) == played(world, player, max_turns=8)


@pytest.mark.parametrize("trial", EVERY)
@pytest.mark.parametrize("player", ["expert", "random"])
def test_after_a_replay_the_world_goes_on_as_it_did(trial: Trial, player: Player) -> None:
    """An object that played other tasks before is reset, and brought to the middle of an episode without looking."""
    world = opened(trial).first(3)
    episode = played(world, player, max_turns=8)[0]
    before, after = halves(episode)
    with world.worlds() as worlds:
        (began,) = asked(worlds, Reset(episode.task, 7))
        for move in before:
            asked(worlds, Step(move.action))
        (wanted,) = asked(worlds, Advise("expert"))
        straight = asked(worlds, *(Step(move.action) for move in after))
    with world.worlds() as worlds:
        asked(worlds, Reset(world.tasks[-1], 9), Advise("expert"))
        replay = Replay(tuple(move.action for move in before), tuple(() for _ in before))
        again, _, found = asked(worlds, Reset(episode.task, 7), replay, Advise("expert"))
        replayed = asked(worlds, *(Step(move.action) for move in after))
    assert (again, found, replayed) == (began, wanted, straight)


@pytest.mark.parametrize("trial", EVERY)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_the_expert_does_every_task(trial: Trial, split: str) -> None:
    world = opened(trial, split)
    lost = [one.task.id for one in played(world, "expert") if one.reward < world.spec.success or not one.done]
    assert lost == []


@pytest.mark.parametrize("trial", EVERY)
def test_acting_at_random_does_not_win(trial: Trial) -> None:
    world = opened(trial)
    every = played(world, "random", max_turns=12)
    won = [one for one in every if one.reward >= world.spec.success]
    assert len(won) <= trial.luck * len(every)


@pytest.mark.parametrize("trial", EVERY)
def test_advice_changes_nothing(trial: Trial) -> None:
    world = opened(trial)
    with world.worlds() as worlds:
        asked(worlds, Reset(world.tasks[0], 3))
        first = asked(worlds, Advise("choices"), Advise("expert"))
        assert asked(worlds, Advise("choices"), Advise("expert")) == first


@pytest.mark.parametrize("trial", EVERY)
def test_a_scripted_player_is_not_kept_waiting(trial: Trial) -> None:
    """Tens of episodes a minute even on a busy machine; docs/environments.md has figures of an idle one."""
    world = opened(trial).first(4)
    assert pace(world, "expert", len(world.tasks), 1, MAX_TURNS).per_minute > 10
