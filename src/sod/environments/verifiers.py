"""Environments of verifiers 0.4: a `Taskset`, or an `Env` with one agent, unchanged.

An episode is an episode of verifiers: its own code sets it up, runs the task's stops and interceptors, plays the user
where there is one, and scores it at the end. Only the model is ours (`sod.environments.verifiers_loop`).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from threading import Lock
from typing import Any, final

import verifiers.v1 as vf  # type: ignore[import-not-found]
from pydantic import ValidationError
from verifiers.v1.configs.agent import agent_config_fields  # type: ignore[import-not-found]
from verifiers.v1.utils.generic import concrete_type  # type: ignore[import-not-found]

from sod.environments.base import Action
from sod.environments.replies import BadReplyError
from sod.environments.verifiers_loop import Exchange, Player
from sod.environments.verifiers_messages import assistant_of, message_of
from sod.environments.verifiers_tools import Shared
from sod.records import Message, SodError, Task, ToolFault, ToolResult

ENDLESS = 1000
"""How many tasks are taken of a taskset that never ends."""
HELD_OUT, MOST_HELD_OUT = 10, 100
"""One task in so many is for validation, and how many at most."""
NOBODYS = "bash"
"""The harness that verifiers takes where none is named; nothing depends on its shell."""
_LOADING = Lock()
"""Environments are made side by side, and what they share is loaded once."""


def installed(**fields: Any) -> VerifiersEnvironment:
    """An installed environment by its id: the fields are those of verifiers' `[env]` block, `taskset: {id: ...}` first.

    Raises SodError where there is none, or a field is wrong.
    """
    return _opened("installed", json.dumps(fields, sort_keys=True))


def maker(kind: type, where: str) -> Callable[..., VerifiersEnvironment]:
    """Makes environments of a class of verifiers; called with the fields of its config. Raises SodError, beginning with
    `where`, for a class that is neither a Taskset nor an Env.
    """
    if not issubclass(kind, vf.Taskset | vf.Env):
        raise SodError(f"{where}: {kind.__name__} is of verifiers; name its Taskset, or its Env with one agent")

    def make(**fields: Any) -> VerifiersEnvironment:
        return _opened(kind, json.dumps(fields, sort_keys=True))

    return make


def _opened(kind: type | str, fields: str) -> VerifiersEnvironment:
    try:
        with _LOADING:
            return VerifiersEnvironment(_loaded(kind, fields))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in ("environment", *first["loc"]))
        raise SodError(f"{key}: {first['msg']}; see the fields of its config in verifiers") from None
    except SodError:
        raise
    except BadReplyError as error:
        raise SodError(f"environment: {error}") from None
    except Exception as error:  # of verifiers, which says what to do, or of the user's `load`
        raise SodError(f"environment: {type(error).__name__}: {' '.join(str(error).split())}") from error


@final
class Loaded:
    """What all episodes share: the tasks, the environment, and the toolsets of the taskset."""

    def __init__(self, taskset: Any, env: Any | None) -> None:
        self.config = vf.SingleAgentEnvConfig() if env is None else env.config
        self.env = env
        _refuse_agents(self.config)
        bound = None if taskset.bounded else ENDLESS
        self.tasks: list[Any] = list(itertools.islice(taskset, bound))
        if not self.tasks:
            raise SodError(f"environment: the taskset {type(taskset).__name__} has no tasks")
        self.shared = Shared(taskset)
        self._starting = asyncio.Lock()
        self._users = 0

    async def begin(self) -> None:
        """One more object plays in it: the first starts what the environment keeps for all episodes."""
        async with self._starting:
            if self._users == 0 and self.env is not None:
                await self.env.start()
            self._users += 1

    async def end(self) -> None:
        """One less plays in it."""
        async with self._starting:
            self._users -= 1
            if self._users == 0 and self.env is not None:
                await self.env.stop()


@lru_cache(maxsize=4)
def _loaded(kind: type | str, fields: str) -> Loaded:
    """Loaded once for all episodes under way: a taskset may be large."""
    given = json.loads(fields)
    if isinstance(kind, str):
        names = (given.get("taskset") or {}).get("id", ""), given.get("id", "")
        env = vf.load_environment(vf.env_config_type(*names)(**given))
        return Loaded(env.taskset, env)
    if issubclass(kind, vf.Env):
        config = concrete_type(kind, vf.EnvConfig, origin=vf.Env) or vf.EnvConfig
        env = kind(config(**given))
        return Loaded(env.taskset, env)
    _refuse_played_otherwise(kind)
    config = concrete_type(kind, vf.TasksetConfig, origin=vf.Taskset) or vf.TasksetConfig
    return Loaded(kind(config(**given)), None)


def _refuse_played_otherwise(taskset: type) -> None:
    """Raises SodError for a taskset whose module exports the environment that plays it."""
    module = sys.modules[taskset.__module__]
    exported = [getattr(module, name, None) for name in getattr(module, "__all__", ())]
    for thing in exported:
        if isinstance(thing, type) and issubclass(thing, vf.Env) and thing is not vf.Env:
            raise SodError(
                f"environment: {taskset.__name__} is played by {thing.__name__} of its module: name that in "
                f"environment.call, with environment.taskset: {{id: {module.__name__}, ...}}"
            )


def _refuse_agents(config: Any) -> None:
    """Raises SodError where there is more than the one agent that the student plays, or that has a loop of its own."""
    seats = agent_config_fields(config)
    if len(seats) != 1:
        raise SodError(f"environment: it has {len(seats)} agents ({', '.join(seats)}); only one can be played here")
    ((name, spec),) = seats.items()
    own = vf.default_harness_id(config.taskset.id) if spec.harness is None else spec.harness.id
    if own != "null" and not (spec.harness is None and own == NOBODYS):
        raise SodError(
            f"environment: its harness {own} runs a loop of its own around the model; here turns and tool calls are "
            f"played as the null harness does: set environment.{name}.harness.id to 'null'"
        )


@final
class VerifiersEnvironment:
    """`sod.environments.base.Environment` over an environment of verifiers."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._exchange = Exchange()
        self._player: Player | None = None
        self._playing: asyncio.Task[None] | None = None
        self._known = 0  # messages of the conversation that were read or said
        self._began = False

    def tasks(self, split: str) -> Sequence[dict[str, Any]]:
        """One task in ten, 100 at most, is for validation, from the end; of a single task, that one."""
        numbers = range(len(self._loaded.tasks))
        held = min(MOST_HELD_OUT, -(-len(numbers) // HELD_OUT))
        if len(numbers) > 1:
            numbers = numbers[-held:] if split == "validation" else numbers[:-held]
        return [{"id": f"task-{number}", "idx": number} for number in numbers]

    async def reset(self, task: Task, seed: int) -> tuple[Sequence[Message], Sequence[Any]]:
        """See `Environment.reset`; the row's `idx` is the place of its task in the taskset."""
        await self._leave()
        if not self._began:
            await self._loaded.begin()
            self._began = True
        index, last = task.extra.get("idx"), len(self._loaded.tasks) - 1
        if not isinstance(index, int) or not 0 <= index <= last:
            raise BadReplyError(f"idx is {index!r}; it has to be the number of a task of the taskset, 0 to {last}")
        self._exchange = Exchange()
        self._player = Player(self._loaded.config, self._exchange, self._loaded.shared)
        self._playing = asyncio.create_task(self._played(self._loaded.tasks[index], self._exchange, self._player))
        messages = await self._exchange.asked.get()
        if messages is None:
            await self._ended()
            raise BadReplyError("the episode was over before the model's first turn")
        self._known = len(messages)
        return [message_of(message) for message in messages], self._player.schemas()

    async def step(self, action: Action) -> tuple[list[ToolResult] | str, float, bool]:
        """See `Environment.step`; all reward comes at the end."""
        self._exchange.results.clear()
        self._exchange.said.put_nowait(assistant_of(action, self._known))
        messages = await self._exchange.asked.get()
        new = [] if messages is None else [message_of(message) for message in messages[self._known + 1 :]]
        self._known += 1 + len(new)
        if messages is None:
            await self._ended()
        if isinstance(action, str):
            return "\n\n".join(message.content for message in new), 0.0, messages is None
        return self._results(new, len(action)), 0.0, messages is None

    async def final_reward(self) -> float:
        """The reward that verifiers gave the episode; one that is under way is ended first."""
        self._exchange.said.put_nowait(None)
        reward: float = (await self._ended()).reward
        return reward

    async def close(self) -> None:
        """Leave the episode that is under way, unscored; the last object stops what the environment started."""
        await self._leave()
        if self._began:
            self._began = False
            await self._loaded.end()

    async def _leave(self) -> None:
        if self._playing is not None:
            self._playing.cancel()
            await asyncio.wait({self._playing})
            self._playing = None

    async def _played(self, task: Any, exchange: Exchange, player: Player) -> None:
        """One episode; its tools are closed before the rollout hears that it is over."""
        env = self._loaded.env
        agents = vf.Agents(self._loaded.config, lambda name, spec: player)
        try:
            if env is None:
                await player.run(task)
            else:
                await env.setup(agents)
                await env.run(task, agents)
                traces = [] if player.trace is None else [player.trace]
                described = vf.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash)
                await env.finalize(task, vf.Episode(task=described, traces=traces))
        finally:
            await player.close()
            exchange.asked.put_nowait(None)

    async def _ended(self) -> Any:
        """The trace of the episode, which is over or about to be. Raises ToolFault where it failed."""
        assert self._playing is not None
        assert self._player is not None
        await self._playing
        if self._exchange.refused is not None:
            raise self._exchange.refused
        trace = self._player.trace
        if trace is None:
            raise BadReplyError("its run ended without a run of its agent")
        if not trace.ok:
            error = trace.last_error
            raise ToolFault("it failed" if error is None else f"{error.type}: {' '.join(error.message.split())}")
        return trace

    def _results(self, new: Sequence[Message], count: int) -> list[ToolResult]:
        """A result for each call: as the next request of the model has it, else as the tool gave it."""
        read = [message.content for message in new if message.role == "tool"]
        results = [ToolResult(text, "exception" if failed else None) for text, failed in self._exchange.results]
        results = [replace(result, text=text) for result, text in zip(results, read, strict=True)] if read else results
        over = ToolResult("Error: the episode is over", error="not_run")
        return [*results, *[over] * (count - len(results))]
