"""A class for TRL's `environment_factory` (GRPOTrainer, TRL 1.x), unchanged.

Its public methods are the tools, `reset(**row)` begins an episode, `get_reward()` rewards it. As in TRL, what a method
raises is a tool error that the model reads, and a turn without a call ends the episode. A `reset` that takes a `seed`
is given the episode's where the row has none; TRL gives none.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, final

from sod.environments.base import Action
from sod.environments.replies import BadReplyError
from sod.records import Message, SodError, Task, ToolCall, ToolFault, ToolResult

NOT_TOOLS = ("reset", "get_reward", "close")


@final
class TrlEnvironment:
    """`sod.environments.base.Environment` over an object of such a class. Raises SodError for tools without hints."""

    def __init__(self, env: Any, where: str) -> None:
        self._env = env
        self._tools: dict[str, Callable[..., Any]] = {}
        for name, _ in inspect.getmembers(type(env), predicate=inspect.isfunction):
            if name not in NOT_TOOLS and not name.startswith("_"):
                self._tools[name] = getattr(env, name)
        self._schemas = [_schema(method, where) for method in self._tools.values()]

    async def reset(self, task: Task, seed: int) -> tuple[Sequence[Message], Sequence[Any]]:
        """See `Environment.reset`. The row's columns are its arguments, as in TRL."""
        row = dict(task.extra)
        if task.prompt:
            row.setdefault("prompt", [{"role": message.role, "content": message.content} for message in task.prompt])
        parameters = inspect.signature(self._env.reset).parameters
        if "seed" in parameters:
            row.setdefault("seed", seed)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            row = {name: value for name, value in row.items() if name in parameters}
        observation = await _settled(self._env.reset(**row))
        if observation is not None and not isinstance(observation, str):
            raise BadReplyError(f"reset returned {type(observation).__name__}; here it is text or None (no images)")
        return _continued(task.prompt, observation or ""), self._schemas

    async def step(self, action: Action) -> tuple[list[ToolResult] | str, float, bool]:
        """See `Environment.step`."""
        if isinstance(action, str):
            return "", 0.0, True
        return [await self._called(call) for call in action], 0.0, False

    async def final_reward(self) -> float:
        """What `get_reward` returns; 0 where there is none."""
        get_reward = getattr(self._env, "get_reward", None)
        earned: float = 0.0 if get_reward is None else await _settled(get_reward())
        return earned

    async def close(self) -> None:
        """Close what was wrapped, where it can be."""
        close = getattr(self._env, "close", None)
        if callable(close):
            await _settled(close())

    async def _called(self, call: ToolCall) -> ToolResult:
        try:
            returned = await _settled(self._tools[call.name](**call.arguments))
        except ToolFault:
            raise
        except Exception as error:
            return ToolResult(str({"error": str(error)}), error="exception")
        return ToolResult(returned if isinstance(returned, str) else str(returned))


def _continued(prompt: Sequence[Message], observation: str) -> Sequence[Message]:
    """The prompt, whose last message the observation continues as it is: nothing is put between them, as in TRL."""
    if not prompt or prompt[-1].role != "user":
        return [*prompt, Message("user", observation)] if observation else prompt
    last = prompt[-1]
    return [*prompt[:-1], replace(last, content=last.content + observation)]


async def _settled(value: Any) -> Any:
    return await value if isinstance(value, Awaitable) else value


def _schema(method: Callable[..., Any], where: str) -> Mapping[str, Any]:
    from transformers.utils.chat_template_utils import get_json_schema  # slow to import

    try:
        schema: Mapping[str, Any] = get_json_schema(method)
    except Exception as error:
        said = " ".join(str(error).split())
        raise SodError(f"{where}: its tool {method.__name__}: {said}") from None
    return schema
