"""Clients of OpenEnv servers (`openenv-core` 0.3): one session of a server for each episode under way.

A client of tools (`MCPToolClient`) shows its server's tools: calls are its actions, and a turn without a call ends the
episode. With any other client what the model says becomes the action: a JSON object gives the action's fields, other
text its one required field (`message` for `GenericEnvClient`, whose actions declare none).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, final, get_args

from sod.environments.base import Action, Environment
from sod.records import Task, ToolCall, ToolResult

TEXTS = ("text", "message", "output", "prompt", "observation", "echoed_message", "result")
"""Where an observation has its text, the first that it has; without any it is shown as JSON."""
FIELD = "message"


def open_environment(client: Any, where: str) -> Environment:
    """A client, sync or async, as an environment."""
    tools = callable(getattr(client, "list_tools", None))
    sync = getattr(client, "sync", None)
    plain = sync() if callable(sync) else client
    return _OfTools(plain) if tools else _OfText(plain, _action_class(type(client)))


@final
class _OfText:
    """Actions are what the model says."""

    def __init__(self, client: Any, action_class: Any) -> None:
        self._client = client
        self._action_class = action_class
        self._field = _text_field(action_class)

    def reset(self, task: Task, seed: int) -> tuple[str, Sequence[Any]]:
        """See `Environment.reset`; the server gets the row's seed, else the episode's."""
        return _text(self._client.reset(seed=_seed(task, seed)).observation), ()

    def step(self, action: Action) -> tuple[str, float, bool]:
        """See `Environment.step`; fields that the action does not take are told to the model."""
        said = action if isinstance(action, str) else ""
        given = _json_object(said) or {self._field: said}
        try:
            made = given if self._action_class is None else self._action_class(**given)
        except (TypeError, ValueError) as error:
            return f"Error: {' '.join(str(error).split())}", 0.0, False
        result = self._client.step(made)
        return _text(result.observation), result.reward or 0.0, bool(result.done)

    def close(self) -> None:
        """End the session."""
        self._client.close()


@final
class _OfTools:
    """Actions are calls of the server's tools."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def reset(self, task: Task, seed: int) -> tuple[str, Sequence[Any]]:
        """See `Environment.reset`; the server gets the row's seed, else the episode's."""
        begun = self._client.reset(seed=_seed(task, seed))
        schemas = [_schema(tool) for tool in self._client.list_tools()]
        return _text(begun.observation), schemas

    def step(self, action: Action) -> tuple[str | list[ToolResult], float, bool]:
        """See `Environment.step`. Calls are made in order, and none after the one that ends the episode."""
        if isinstance(action, str):
            return "", 0.0, True
        results: list[ToolResult] = []
        reward, done = 0.0, False
        for call in action:
            if done:
                results.append(ToolResult("Error: the episode is over", error="not_run"))
                continue
            step = self._client.step(_call_action(call))
            reward += step.reward or 0.0
            done = bool(step.done)
            results.append(_result(step.observation))
        return results, reward, done

    def close(self) -> None:
        """End the session."""
        self._client.close()


def _seed(task: Task, seed: int) -> int:
    return int(task.extra.get("seed", seed)) % 2**32


def _action_class(client_class: type) -> Any | None:
    """The class of a client's actions, as its base names it; None for dictionaries."""
    for base in client_class.__mro__:
        for generic in base.__dict__.get("__orig_bases__", ()):
            found = next(iter(get_args(generic)), None)
            if isinstance(found, type) and "model_fields" in dir(found):
                return found
    return None


def _text_field(action_class: Any | None) -> str:
    """The field that text goes into: the one that an action cannot be made without."""
    if action_class is None:
        return FIELD
    required = [name for name, field in action_class.model_fields.items() if field.is_required()]
    return required[0] if required else FIELD


def _call_action(call: ToolCall) -> Any:
    types = import_module("openenv.core.env_server.mcp_types")
    return types.CallToolAction(tool_name=call.name, arguments=dict(call.arguments))


def _schema(tool: Any) -> Mapping[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}
    return {"type": "function", "function": function}


def _result(observation: Any) -> ToolResult:
    error = getattr(observation, "error", None)
    if error is not None:
        return ToolResult(f"Error: {getattr(error, 'message', error)}", error="exception")
    value = getattr(observation, "result", None)
    data = value.get("data", value) if isinstance(value, Mapping) else getattr(value, "data", value)
    return ToolResult(data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, default=str))


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _text(observation: Any) -> str:
    """An observation as text; bookkeeping and what is empty is left out."""
    if isinstance(observation, str):
        return observation
    dump = getattr(observation, "model_dump", None)
    fields = dict(observation) if isinstance(observation, Mapping) else dump() if callable(dump) else vars(observation)
    named = next((fields[name] for name in TEXTS if isinstance(fields.get(name), str)), None)
    if named is not None:
        return str(named)
    shown = {name: value for name, value in fields.items() if name not in ("done", "reward", "metadata") and value}
    return json.dumps(shown, ensure_ascii=False, default=str) if shown else ""
