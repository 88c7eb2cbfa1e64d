"""Episodes of scripted players: what an expert does, what comes of acting at random, without any model.

They are played through `Worlds`, which every episode of a run goes through too, many side by side.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, final

from sod.environments.base import (
    Action,
    Advise,
    Advised,
    Began,
    End,
    Ended,
    Reset,
    Step,
    Stepped,
    WorldReply,
    WorldRequest,
)
from sod.environments.worlds import Worlds
from sod.records import Fault, SodError, Task
from sod.seeds import derive

Player = Literal["expert", "random"]


@final
@dataclass(frozen=True)
class Move:
    """An action and what came of it."""

    action: Action
    stepped: Stepped


@final
@dataclass(frozen=True)
class Played:
    """An episode: how it began, every move, and what it earned in all."""

    task: Task
    began: Began
    moves: tuple[Move, ...]
    reward: float

    @property
    def done(self) -> bool:
        """Whether the world ended it, not the limit of turns."""
        return bool(self.moves) and self.moves[-1].stepped.done


Playing = Generator[WorldRequest, WorldReply, Played]


def episodes(
    worlds: Worlds, tasks: Sequence[Task], player: Player, seed: int, max_turns: int, at_once: int
) -> Iterator[Played]:
    """Play each task once, `at_once` of them side by side, in the order in which they end.

    An episode's seed depends on `seed`, the task and its place alone, and so does what a random player chooses.
    Raises SodError for a fault: a scripted player has no other attempt to make.
    """
    waiting = (_episode(number, task, player, seed, max_turns) for number, task in enumerate(tasks))
    playing: list[tuple[Playing, WorldRequest]] = []
    while True:
        while len(playing) < at_once and (play := next(waiting, None)) is not None:
            playing.append((play, next(play)))
        if not playing:
            return
        replies = worlds.run([request for _, request in playing])
        going: list[tuple[Playing, WorldRequest]] = []
        for (play, request), reply in zip(playing, replies, strict=True):
            if isinstance(reply, Fault):
                raise SodError(f"episode {request.episode}: {reply.detail}")
            try:
                going.append((play, play.send(reply)))
            except StopIteration as ended:
                worlds.finish([request.episode])
                yield ended.value
        playing = going


def _episode(number: int, task: Task, player: Player, seed: int, max_turns: int) -> Playing:
    name = f"{task.id}#{number}"
    began = yield WorldRequest(name, Reset(task, derive(seed, task.id, number)))
    assert isinstance(began, Began)
    random = Random(derive(seed, task.id, number, "player"))
    moves: list[Move] = []
    while len(moves) < max_turns and not (moves and moves[-1].stepped.done):
        advised = yield WorldRequest(name, Advise("expert" if player == "expert" else "choices"))
        assert isinstance(advised, Advised)
        if not advised.actions:
            raise SodError(f"task {task.id}: choices() returned nothing that can be done, and the episode is not over")
        action = random.choice(advised.actions)
        stepped = yield WorldRequest(name, Step(action))
        assert isinstance(stepped, Stepped)
        moves.append(Move(action, stepped))
    ended = yield WorldRequest(name, End())
    assert isinstance(ended, Ended)
    return Played(task, began, tuple(moves), sum(move.stepped.reward for move in moves) + ended.reward)


@final
class Game:
    """One episode that is played by hand, an action at a time. Every method raises SodError for a fault."""

    def __init__(self, worlds: Worlds, task: Task, seed: int) -> None:
        self._worlds = worlds
        self._do = Reset(task, seed)
        self.turns = 0
        self.reward = 0.0
        self.done = False

    def begin(self) -> Began:
        """Reset the world."""
        began = self._asked(self._do)
        assert isinstance(began, Began)
        return began

    def act(self, action: Action) -> Stepped:
        """Take an action; its reward is added to `reward`."""
        stepped = self._asked(Step(action))
        assert isinstance(stepped, Stepped)
        self.turns += 1
        self.reward += stepped.reward
        self.done = stepped.done
        return stepped

    def advised(self, about: Literal["expert", "choices"]) -> tuple[Action, ...]:
        """What the expert would do, or what may be done. Raises SodError where the world cannot say."""
        advised = self._asked(Advise(about))
        assert isinstance(advised, Advised)
        return advised.actions

    def end(self) -> float:
        """The reward of the whole episode, which is over."""
        ended = self._asked(End())
        assert isinstance(ended, Ended)
        self.reward += ended.reward
        return self.reward

    def _asked(self, do: Reset | Step | Advise | End) -> WorldReply:
        (reply,) = self._worlds.run([WorldRequest("game", do)])
        if isinstance(reply, Fault):
            raise SodError(f"environment: {reply.detail}")
        return reply
